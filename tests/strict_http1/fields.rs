//! Field lines: RFC 9112 sections 2.2 and 5, RFC 9110 section 5.

use support::scene::{SITE, Scene};

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_2_2_a_bare_lf_is_400_and_closes() {
    let scene = Scene::new().await;
    scene
        .refuses(
            400,
            "bare_lf",
            &[
                b"GET / HTTP/1.1\n{H}\r\n",
                b"GET / HTTP/1.1\r\nHost: www.foobar.com\n\r\n",
                b"GET / HTTP/1.1\r\n{H}\n",
                b"GET / HTTP/1.1\r\n{H}X: y\nZ: z\r\n\r\n",
                b"GET / HTTP/1.1\r\n{H}X: y\n\nGET /smuggled HTTP/1.1\r\n{H}\r\n",
                // No CRLF anywhere: answered at once, not at a deadline.
                b"GET / HTTP/1.1\nHost: www.foobar.com\n\n",
                b"POST / HTTP/1.1\nHost: www.foobar.com\nContent-Length: 0\n\n",
                b"\nGET / HTTP/1.1\r\n{H}\r\n",
                b"GET / HTTP/1.0\nHost: www.foobar.com\n\n",
            ],
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_2_2_a_bare_cr_is_400_and_closes() {
    let scene = Scene::new().await;
    scene
        .refuses(
            400,
            "field|request_line",
            &[
                b"GET / HTTP/1.1\r\n{H}X: a\rb\r\n\r\n",
                b"GET / HTTP/1.1\r\n{H}X: a\r\r\n\r\n",
                b"GET / HTTP/1.1\r\n{H}X\r: a\r\n\r\n",
                b"GET / HTTP/1.1\r\n{H}X: a\rTransfer-Encoding: chunked\r\n\r\n",
                b"GET / HTTP/1.1\r\n{H}\r\r\n\r\n",
                b"GET / HTTP/1.1\r\n{H}\rX: y\r\n\r\n",
            ],
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_2_2_a_bare_cr_in_the_request_line_is_400_and_closes() {
    let scene = Scene::new().await;
    scene
        .refuses(
            400,
            "request_line|field|target",
            &[
                b"GET / HTTP/1.1\r\r\n{H}\r\n",
                b"GET / HTTP/1.1\rX: y\r\n{H}\r\n",
                b"GET /a\rb HTTP/1.1\r\n{H}\r\n",
                b"GET\r / HTTP/1.1\r\n{H}\r\n",
            ],
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9110_5_5_control_characters_in_a_value_are_400_and_close() {
    let scene = Scene::new().await;
    let requests: Vec<Vec<u8>> = (0u8..0x20)
        .chain([0x7f])
        .filter(|b| !b"\t\r\n".contains(b))
        .flat_map(|b| {
            let of = |before: &str, after: &str| {
                let mut request = format!("GET / HTTP/1.1\r\nHost: {SITE}\r\nX: {before}").into_bytes();
                request.push(b);
                request.extend_from_slice(after.as_bytes());
                request.extend_from_slice(b"\r\n\r\n");
                request
            };
            [of("a", "b"), of("", ""), of("a", "")]
        })
        .collect();
    let requests: Vec<&[u8]> = requests.iter().map(Vec::as_slice).collect();
    scene.refuses(400, "field", &requests).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_5_2_a_folded_line_is_400_and_closes() {
    let scene = Scene::new().await;
    scene
        .refuses(
            400,
            "field",
            &[
                b"GET / HTTP/1.1\r\n{H}X: y\r\n folded\r\n\r\n",
                b"GET / HTTP/1.1\r\n{H}X: y\r\n\tfolded\r\n\r\n",
                b"GET / HTTP/1.1\r\n{H}X:\r\n y\r\n\r\n",
                b"GET / HTTP/1.1\r\n{H}X: y\r\n \r\n\r\n",
                b"GET / HTTP/1.1\r\nHost:\r\n www.foobar.com\r\n\r\n",
                b"POST / HTTP/1.1\r\n{H}Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
                b"POST / HTTP/1.1\r\n{H}X: y\r\n Content-Length: 5\r\n\r\nhello",
                // RFC 9112 section 2.2: whitespace between the request line and the first field.
                b"GET / HTTP/1.1\r\n {H}\r\n",
                b"GET / HTTP/1.1\r\n\t{H}\r\n",
                b"GET / HTTP/1.1\r\n \r\n{H}\r\n",
            ],
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_5_1_space_before_the_colon_is_400_and_closes() {
    let scene = Scene::new().await;
    scene
        .refuses(
            400,
            "field",
            &[
                b"GET / HTTP/1.1\r\n{H}X : y\r\n\r\n",
                b"GET / HTTP/1.1\r\n{H}X\t: y\r\n\r\n",
                b"GET / HTTP/1.1\r\nHost : www.foobar.com\r\n\r\n",
                b"POST / HTTP/1.1\r\n{H}Content-Length : 5\r\n\r\nhello",
                b"POST / HTTP/1.1\r\n{H}Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
                b"POST / HTTP/1.1\r\n{H}Content-Length: 5\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
            ],
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9110_5_1_a_name_that_is_no_token_is_400_and_closes() {
    let scene = Scene::new().await;
    scene
        .refuses(
            400,
            "field",
            &[
                b"GET / HTTP/1.1\r\n{H}: y\r\n\r\n",
                b"GET / HTTP/1.1\r\n{H}no colon\r\n\r\n",
                b"GET / HTTP/1.1\r\n{H}nocolon\r\n\r\n",
                b"GET / HTTP/1.1\r\n{H}X Y: z\r\n\r\n",
                b"GET / HTTP/1.1\r\n{H}X@Y: z\r\n\r\n",
                b"GET / HTTP/1.1\r\n{H}X/Y: z\r\n\r\n",
                b"GET / HTTP/1.1\r\n{H}X(Y): z\r\n\r\n",
                b"GET / HTTP/1.1\r\n{H}[X]: z\r\n\r\n",
                b"GET / HTTP/1.1\r\n{H}\"X\": z\r\n\r\n",
                b"GET / HTTP/1.1\r\n{H}X{}: z\r\n\r\n",
                b"GET / HTTP/1.1\r\n{H}X=Y: z\r\n\r\n",
                b"GET / HTTP/1.1\r\n{H}X,Y: z\r\n\r\n",
                b"GET / HTTP/1.1\r\n{H}X;Y: z\r\n\r\n",
                b"GET / HTTP/1.1\r\n{H}X\\Y: z\r\n\r\n",
                b"GET / HTTP/1.1\r\n{H}X\x00: z\r\n\r\n",
                b"GET / HTTP/1.1\r\n{H}X\x7f: z\r\n\r\n",
                b"GET / HTTP/1.1\r\n{H}\xc3\x9cber: z\r\n\r\n",
                b"GET / HTTP/1.1\r\n{H}\x0bTransfer-Encoding: chunked\r\n\r\n",
                b"GET / HTTP/1.1\r\n{H}Content-Length\x00: 5\r\n\r\nhello",
                b"GET / HTTP/1.1\r\n:authority: www.foobar.com\r\n{H}\r\n",
            ],
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9110_5_5_values_pass_as_they_are_and_the_space_around_them_does_not() {
    let scene = Scene::new().await;
    let mut request = format!(
        "GET / HTTP/1.1\r\nhOsT:{SITE}\r\nX-None:y\r\nX-Much: \t  y \t \r\nX-Tab: a\tb\r\nX-Inside: a  b\r\nX-Empty:\r\n\
         X-Space: \t \r\n!#$%&'*+-.^_`|~09Az: tchar\r\nX-Quoted: \"a\\\"b\", (c)\r\nX-Colon: a:b: c\r\nX-Obs: "
    )
    .into_bytes();
    request.extend_from_slice(b"\x80\xff\xfe caf\xe9\r\n\r\n");
    let seen = scene.forwarded(&request).await;
    for (name, value) in [
        ("x-none", "y"),
        ("x-much", "y"),
        ("x-tab", "a\tb"),
        ("x-inside", "a  b"),
        ("x-empty", ""),
        ("x-space", ""),
        ("!#$%&'*+-.^_`|~09az", "tchar"),
        ("x-quoted", "\"a\\\"b\", (c)"),
        ("x-colon", "a:b: c"),
        ("host", SITE),
    ] {
        assert_eq!(seen.field(name).as_deref(), Some(value), "{name} in {}", seen.text());
    }
    let obs = b"\x80\xff\xfe caf\xe9\r\n";
    assert!(seen.head.windows(obs.len()).any(|w| w == obs), "{}", seen.head.escape_ascii());
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9110_5_3_repeated_fields_stay_in_their_order() {
    let scene = Scene::new().await;
    let seen = scene
        .forwarded(
            "GET / HTTP/1.1\r\n{H}Accept: a\r\nCookie: x=1\r\nX-A: 1\r\naccept: b\r\nCookie: y=2\r\nACCEPT: c, d\r\n\r\n",
        )
        .await;
    assert_eq!(seen.values("accept"), ["a", "b", "c, d"]);
    assert_eq!(seen.values("cookie").join("; "), "x=1; y=2");
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6585_5_a_head_above_max_header_size_is_431_and_closes() {
    let scene = Scene::tuned(1, "max_header_size = \"4KiB\"\nmax_target_length = \"2KiB\"", "").await;
    let long = format!("GET / HTTP/1.1\r\n{{H}}X: {}\r\n\r\n", "x".repeat(4096));
    let many = format!(
        "GET / HTTP/1.1\r\n{{H}}{}\r\n",
        "X: 0123456789012345678901234567890123456789\r\n".repeat(95)
    );
    // Never finished: the limit does not wait for the end.
    let endless = format!("GET / HTTP/1.1\r\n{{H}}X: {}", "x".repeat(8192));
    scene.refuses(431, "head_too_large", &[long.as_bytes(), many.as_bytes(), endless.as_bytes()]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6585_5_more_fields_than_max_headers_are_431_and_close() {
    let scene = Scene::new().await;
    // With Host: 101.
    let many = format!("GET / HTTP/1.1\r\n{{H}}{}\r\n", "X: y\r\n".repeat(100));
    let far_more = format!("GET / HTTP/1.1\r\n{{H}}{}\r\n", "X: y\r\n".repeat(1000));
    scene.refuses(431, "too_many_fields", &[many.as_bytes(), far_more.as_bytes()]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6585_5_as_many_fields_as_max_headers_pass() {
    let scene = Scene::new().await;
    let seen = scene.forwarded(format!("GET / HTTP/1.1\r\n{{H}}{}\r\n", "X: y\r\n".repeat(99))).await;
    assert_eq!(seen.values("x").len(), 99);
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9110_15_5_15_a_target_above_max_target_length_is_414_and_closes() {
    let scene = Scene::tuned(1, "max_target_length = \"1KiB\"", "").await;
    let long = format!("GET /{} HTTP/1.1\r\n{{H}}\r\n", "x".repeat(1024));
    let query = format!("GET /?{} HTTP/1.1\r\n{{H}}\r\n", "x".repeat(2000));
    let absolute = format!("GET https://{SITE}/{} HTTP/1.1\r\n{{H}}\r\n", "x".repeat(2000));
    scene.refuses(414, "target_too_long", &[long.as_bytes(), query.as_bytes(), absolute.as_bytes()]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9110_15_5_15_a_target_of_max_target_length_passes() {
    let scene = Scene::tuned(1, "max_target_length = \"1KiB\"", "").await;
    let target = format!("/{}", "x".repeat(1023));
    assert_eq!(
        scene.forwarded(format!("GET {target} HTTP/1.1\r\n{{H}}\r\n")).await.line(),
        format!("GET {target} HTTP/1.1")
    );
}
