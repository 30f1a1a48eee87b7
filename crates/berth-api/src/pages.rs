//! The console's pages, from inside the binary, and the headers that keep them safe.
//!
//! Names below `assets/` carry a digest and may be kept for ever; `index.html` is made anew for every visit: it
//! carries the nonce that lets the terminal's own style element in, what `GET /api/v1/entry` would answer, so that the
//! page need not ask before it can draw, and nothing else from outside the files.

use crate::Api;
use crate::doors::account;
use crate::identity::random;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

include!(concat!(env!("OUT_DIR"), "/console.rs"));

const NOT_BUILT: &str = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>berth</title>\
<h1>The console's pages are not in this binary</h1>\
<p>The API below <a href=\"/api/v1/openapi.json\">/api/v1</a> works. To have the pages, build with node at hand:</p>\
<pre>make console</pre></html>";

fn find(name: &str) -> Option<&'static [u8]> {
    FILES.binary_search_by(|(known, _)| (*known).cmp(name)).ok().map(|index| FILES[index].1)
}

fn kind(name: &str) -> &'static str {
    match name.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("woff2") => "font/woff2",
        _ => "application/octet-stream",
    }
}

/// Every path that is not the API's and not a file is the page: it routes by itself.
pub(crate) async fn serve(State(api): State<Api>, method: Method, uri: Uri, request: Request) -> Response {
    if !matches!(method, Method::GET | Method::HEAD) {
        return StatusCode::METHOD_NOT_ALLOWED.into_response();
    }
    let name = uri.path().trim_start_matches('/');
    if name.starts_with("assets/") || name == "favicon.svg" {
        return match find(name) {
            Some(bytes) => asset(name, bytes, &request),
            None => StatusCode::NOT_FOUND.into_response(),
        };
    }
    page(&api, request.headers())
}

fn asset(name: &str, bytes: &'static [u8], request: &Request) -> Response {
    let accepts = request.headers().get(header::ACCEPT_ENCODING).and_then(|value| value.to_str().ok());
    let gzip = accepts.is_some_and(|list| list.split(',').any(|one| one.trim().starts_with("gzip")));
    let mut response = match find(&format!("{name}.gz")).filter(|_| gzip) {
        Some(smaller) => ([(header::CONTENT_ENCODING, "gzip")], smaller).into_response(),
        None => bytes.into_response(),
    };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind(name)));
    headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=31536000, immutable"));
    response
}

/// Text between an attribute's quotes.
fn quoted(text: &str) -> String {
    text.replace('&', "&amp;").replace('"', "&quot;").replace('<', "&lt;").replace('>', "&gt;")
}

fn page(api: &Api, asked: &HeaderMap) -> Response {
    let Some(html) = find("index.html").and_then(|bytes| std::str::from_utf8(bytes).ok()) else {
        return ([(header::CONTENT_TYPE, kind(".html"))], NOT_BUILT).into_response();
    };
    let Ok(bytes) = random::<16>() else { return StatusCode::INTERNAL_SERVER_ERROR.into_response() };
    let nonce = berth_types::digest::hex(&bytes);
    let policy = policy(Some(&nonce));
    let headers = [(header::CONTENT_TYPE, kind(".html").to_owned()), (header::CONTENT_SECURITY_POLICY, policy)];
    // Without it the page asks.
    let entry = serde_json::to_string(&account::entry_of(api, asked)).unwrap_or_default();
    (headers, html.replace("BERTH_NONCE", &nonce).replace("BERTH_ENTRY", &quoted(&entry))).into_response()
}

fn policy(nonce: Option<&str>) -> String {
    let style = nonce.map(|nonce| format!(" 'nonce-{nonce}'")).unwrap_or_default();
    format!(
        "default-src 'none'; script-src 'self'; style-src 'self'{style}; img-src 'self' data:; font-src 'self'; \
         connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
}

/// Headers of every answer.
pub(crate) async fn headers(request: Request, next: Next) -> Response {
    let api = request.uri().path().starts_with("/api/");
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert("cross-origin-opener-policy", HeaderValue::from_static("same-origin"));
    headers.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
    if api || !headers.contains_key(header::CACHE_CONTROL) {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    if !headers.contains_key(header::CONTENT_SECURITY_POLICY)
        && let Ok(value) = HeaderValue::from_str(&policy(None))
    {
        headers.insert(header::CONTENT_SECURITY_POLICY, value);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_lets_nothing_in_from_elsewhere() {
        let policy = policy(Some("abc"));
        assert!(policy.starts_with("default-src 'none'; script-src 'self';"));
        assert!(!policy.contains("unsafe") && !policy.contains("http") && policy.contains("'nonce-abc'"));
    }

    #[test]
    fn what_the_page_is_told_stays_between_its_quotes() {
        assert_eq!(quoted(r#"{"user":"<b>'&"}"#), "{&quot;user&quot;:&quot;&lt;b&gt;'&amp;&quot;}");
    }

    #[test]
    fn files_are_sorted_for_the_search() {
        assert!(FILES.is_sorted_by_key(|(name, _)| *name));
    }
}
