//! What a client sees when a request is not served: small, honest, with the number to give to whoever runs the site.

use bytes::Bytes;
use http::{HeaderValue, StatusCode};

/// A page for `status` in the form the client likes best: JSON when it asks for it and not for HTML, else HTML.
/// `accept` is the value of its Accept field; `request_id` leads from the page to the log.
pub fn page(status: StatusCode, request_id: &str, accept: Option<&[u8]>) -> (HeaderValue, Bytes) {
    let reason = status.canonical_reason().unwrap_or("Error");
    let code = status.as_u16();
    written((code, reason), words(status), request_id, accept)
}

/// Likewise while a site is closed for maintenance; a client may come again after `wait` seconds.
pub fn maintenance(wait: u64, request_id: &str, accept: Option<&[u8]>) -> (HeaderValue, Bytes) {
    let again = match wait {
        // Whoever waits for so little need not be told a number.
        0..=120 => "in a moment".to_owned(),
        121..=5400 => format!("in {} minutes", wait.div_ceil(60)),
        _ => format!("in {} hours", wait.div_ceil(3600)),
    };
    let text = format!("The site is closed for maintenance. Please try again {again}.");
    written((503, "Maintenance"), &text, request_id, accept)
}

fn written(
    (code, reason): (u16, &str),
    text: &str,
    request_id: &str,
    accept: Option<&[u8]>,
) -> (HeaderValue, Bytes) {
    if wants_json(accept) {
        let body = serde_json::json!({"status": code, "error": reason, "request_id": request_id});
        return (HeaderValue::from_static("application/json"), Bytes::from(body.to_string()));
    }
    let body = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>{code} {reason}</title>\
         <style>body{{font:1rem/1.5 system-ui,sans-serif;max-width:36rem;margin:15vh auto;padding:0 1rem;color:#222}}\
         h1{{font-size:1.5rem}}code{{color:#666}}</style></head>\
         <body><h1>{reason}</h1><p>{text}</p><p><code>{code} · {request_id}</code></p></body></html>\n"
    );
    (HeaderValue::from_static("text/html; charset=utf-8"), Bytes::from(body))
}

fn words(status: StatusCode) -> &'static str {
    match status {
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE => {
            "The site cannot answer right now. Please try again in a moment."
        }
        StatusCode::GATEWAY_TIMEOUT => "The site took too long to answer. Please try again in a moment.",
        StatusCode::MISDIRECTED_REQUEST => "This server does not carry the site you asked for.",
        StatusCode::PAYLOAD_TOO_LARGE => "What you sent is larger than this site accepts.",
        StatusCode::TOO_MANY_REQUESTS => "You are asking faster than this site allows. Please wait a moment.",
        StatusCode::REQUEST_TIMEOUT => "Your request arrived too slowly.",
        s if s.is_server_error() => "Something went wrong here, not with you.",
        _ => "This request cannot be served as it was sent.",
    }
}

/// Whether a client asks for JSON and not for HTML.
pub fn wants_json(accept: Option<&[u8]>) -> bool {
    let accept = accept.and_then(|v| std::str::from_utf8(v).ok()).unwrap_or_default();
    accept.contains("application/json") && !accept.contains("text/html")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_of_maintenance_says_when_to_come_again() {
        for (wait, words) in [
            (1, "in a moment"),
            (120, "in a moment"),
            (121, "in 3 minutes"),
            (5400, "in 90 minutes"),
            (7200, "in 2 hours"),
        ] {
            let (_, body) = maintenance(wait, "abc123", None);
            let text = String::from_utf8(body.to_vec()).unwrap();
            assert!(text.contains(&format!("maintenance. Please try again {words}.")), "{wait}: {text}");
        }
    }

    #[test]
    fn a_page_carries_status_and_request_id_in_the_form_asked_for() {
        let (kind, body) = page(StatusCode::BAD_GATEWAY, "abc123", None);
        let text = String::from_utf8(body.to_vec()).unwrap();
        assert!(kind.to_str().unwrap().starts_with("text/html"));
        assert!(text.contains("502") && text.contains("abc123"), "{text}");

        let (kind, body) = page(StatusCode::GATEWAY_TIMEOUT, "abc123", Some(b"application/json"));
        let json: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(kind, "application/json");
        assert_eq!((json["status"].as_u64(), json["request_id"].as_str()), (Some(504), Some("abc123")));
    }
}
