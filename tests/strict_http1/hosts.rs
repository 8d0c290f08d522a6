//! The host a request is for: RFC 9112 sections 3.2 and 3.2.2, RFC 9110 section 7.2.

use support::scene::Scene;

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_3_2_no_host_or_several_are_400_and_close() {
    let scene = Scene::new().await;
    scene
        .refuses(
            400,
            "host",
            &[
                b"GET / HTTP/1.1\r\n\r\n",
                b"GET / HTTP/1.1\r\nX: y\r\n\r\n",
                b"GET / HTTP/1.1\r\n{H}{H}\r\n",
                b"GET / HTTP/1.1\r\n{H}Host: other.example\r\n\r\n",
                b"GET / HTTP/1.1\r\nHost: other.example\r\nX: y\r\nHOST: www.foobar.com\r\n\r\n",
                b"GET https://www.foobar.com/ HTTP/1.1\r\n\r\n",
                b"GET https://www.foobar.com/ HTTP/1.1\r\n{H}{H}\r\n",
                // HTTP/1.0 knew no Host; a server of names can do nothing without.
                b"GET / HTTP/1.0\r\n\r\n",
                b"GET / HTTP/1.0\r\n{H}{H}\r\n",
            ],
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_3_2_a_malformed_host_is_400_and_closes() {
    let scene = Scene::new().await;
    scene
        .refuses(
            400,
            "host",
            &[
                b"GET / HTTP/1.1\r\nHost:\r\n\r\n",
                b"GET / HTTP/1.1\r\nHost: :443\r\n\r\n",
                b"GET / HTTP/1.1\r\nHost: user@www.foobar.com\r\n\r\n",
                b"GET / HTTP/1.1\r\nHost: www.foobar.com, www.foobar.com\r\n\r\n",
                b"GET / HTTP/1.1\r\nHost: www.foobar.com other.example\r\n\r\n",
                b"GET / HTTP/1.1\r\nHost: www.foobar.com/\r\n\r\n",
                b"GET / HTTP/1.1\r\nHost: www.foobar.com?\r\n\r\n",
                b"GET / HTTP/1.1\r\nHost: www.foobar.com#x\r\n\r\n",
                b"GET / HTTP/1.1\r\nHost: https://www.foobar.com\r\n\r\n",
                b"GET / HTTP/1.1\r\nHost: www.foobar.com:x\r\n\r\n",
                b"GET / HTTP/1.1\r\nHost: www.foobar.com:-1\r\n\r\n",
                b"GET / HTTP/1.1\r\nHost: www.foobar.com:+443\r\n\r\n",
                b"GET / HTTP/1.1\r\nHost: www.foobar.com:65536\r\n\r\n",
                b"GET / HTTP/1.1\r\nHost: www.foobar.com:443:443\r\n\r\n",
                b"GET / HTTP/1.1\r\nHost: www.foobar.com\\\r\n\r\n",
                b"GET / HTTP/1.1\r\nHost: \"www.foobar.com\"\r\n\r\n",
                b"GET / HTTP/1.1\r\nHost: <www.foobar.com>\r\n\r\n",
                b"GET / HTTP/1.1\r\nHost: w\xc3\xbcw.foobar.com\r\n\r\n",
                b"GET / HTTP/1.1\r\nHost: .\r\n\r\n",
                b"GET / HTTP/1.1\r\nHost: ::1\r\n\r\n",
                b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n",
                b"GET / HTTP/1.1\r\nHost: [::1]x\r\n\r\n",
                b"GET / HTTP/1.1\r\nHost: [www.foobar.com]\r\n\r\n",
                b"GET / HTTP/1.1\r\nHost: [::g]\r\n\r\n",
                b"GET / HTTP/1.1\r\nHost: []\r\n\r\n",
            ],
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_3_2_2_a_host_that_differs_from_the_absolute_form_is_400_and_closes() {
    let scene = Scene::new().await;
    scene
        .refuses(
            400,
            "host",
            &[
                b"GET https://www.foobar.com/ HTTP/1.1\r\nHost: other.example\r\n\r\n",
                b"GET https://other.example/ HTTP/1.1\r\nHost: www.foobar.com\r\n\r\n",
                b"GET https://www.foobar.com:8443/ HTTP/1.1\r\nHost: www.foobar.com\r\n\r\n",
                b"GET https://www.foobar.com/ HTTP/1.1\r\nHost: www.foobar.com:8443\r\n\r\n",
                b"GET https://www.foobar.com/ HTTP/1.1\r\nHost:\r\n\r\n",
            ],
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9110_15_5_20_a_host_that_is_not_ours_is_421() {
    let scene = Scene::new().await;
    scene
        .refuses_and_goes_on(
            421,
            "misdirected",
            &[
                b"GET / HTTP/1.1\r\nHost: other.example\r\n\r\n",
                b"GET / HTTP/1.1\r\nHost: foobar.com\r\n\r\n",
                b"GET / HTTP/1.1\r\nHost: www.foobar.com.evil.example\r\n\r\n",
                b"GET / HTTP/1.1\r\nHost: xwww.foobar.com\r\n\r\n",
                b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
                b"GET / HTTP/1.1\r\nHost: [::1]:443\r\n\r\n",
                b"GET https://other.example/ HTTP/1.1\r\nHost: other.example\r\n\r\n",
            ],
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9110_7_2_a_host_passes_with_a_port_in_any_case_and_with_a_final_dot() {
    let scene = Scene::new().await;
    for host in
        ["www.foobar.com", "WWW.FooBar.com", "www.foobar.com:443", "www.foobar.com:8443", "www.foobar.com:"]
    {
        let seen = scene.forwarded(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        assert_eq!(seen.field("host").unwrap().to_ascii_lowercase(), host.to_ascii_lowercase());
        let told = if host.ends_with("8443") { host } else { "www.foobar.com" };
        assert_eq!(seen.field("x-forwarded-host").as_deref(), Some(told), "{host}");
    }
    let seen = scene.forwarded("GET / HTTP/1.1\r\nHost: www.foobar.com.\r\n\r\n").await;
    assert_eq!(seen.field("x-forwarded-host").as_deref(), Some("www.foobar.com"));
}
