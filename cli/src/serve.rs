//! `allot serve`: a small static file server, a real HTTP server for examples and tests.
//!
//! GET and HEAD of regular files below one directory; `index.html` or a listing for directories.
//! Nothing outside the directory is served, whether asked by `..` or led to by a symbolic link.
//! Ranges, caching and TLS are left to real web servers.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use bytes::Bytes;
use http::{Method, StatusCode, header};
use tokio::io::AsyncReadExt as _;

use crate::exit::Failure;
use crate::output;
use crate::signals;

/// Arguments of `allot serve`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Port to serve on; 0 picks a free one
    #[arg(long, default_value_t = 8000)]
    port: u16,
    /// Address to serve on; 0.0.0.0 for every interface
    #[arg(long, default_value = "127.0.0.1", value_name = "ADDRESS")]
    host: std::net::IpAddr,
    /// Directory to serve
    #[arg(long, default_value = ".")]
    dir: PathBuf,
}

/// Serves until SIGINT or SIGTERM.
pub(crate) async fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let ended = signals::ended()?;
    let root = args.dir.canonicalize().map_err(|error| {
        Failure::Usage(format!(
            "cannot serve --dir {}: {error}; name a directory that exists",
            args.dir.display()
        ))
    })?;
    let listener = tokio::net::TcpListener::bind((args.host, args.port))
        .await
        .with_context(|| {
            format!(
                "cannot serve on {}:{}; choose another port with --port, or 0 for a free one",
                args.host, args.port
            )
        })?;
    let address = listener.local_addr()?;
    output::line(&format!("ready serve http://{address}"))?;
    axum::serve(listener, router(root))
        .with_graceful_shutdown(ended)
        .await?;
    Ok(ExitCode::SUCCESS)
}

fn router(root: PathBuf) -> Router {
    Router::new().fallback(answer).with_state(Arc::new(root))
}

async fn answer(State(root): State<Arc<PathBuf>>, request: Request) -> Response {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return plain(
            StatusCode::METHOD_NOT_ALLOWED,
            "only GET and HEAD are served",
        );
    }
    let asked = request.uri().path();
    let Some(path) = resolve(&root, asked).await else {
        return plain(StatusCode::NOT_FOUND, "no such file");
    };
    if !path.is_dir() {
        return file(&path).await;
    }
    if !asked.ends_with('/') {
        // Relative links of a listing only work below a slash.
        let location = format!("{asked}/");
        return respond(StatusCode::MOVED_PERMANENTLY, "text/plain", Body::empty())
            .map(|response| with_header(response, header::LOCATION, &location))
            .unwrap_or_default();
    }
    match resolve(&root, &format!("{asked}index.html")).await {
        Some(index) if index.is_file() => file(&index).await,
        _ => listing(asked, &path).await,
    }
}

/// The file or directory that a request path names, with every link followed; `None` when there
/// is none or it lies outside `root`.
async fn resolve(root: &Path, asked: &str) -> Option<PathBuf> {
    let decoded = percent_decode(asked)?;
    let mut path = root.to_owned();
    for part in decoded.split('/').filter(|part| !part.is_empty()) {
        if part == "." || part == ".." || part.contains('\0') {
            return None;
        }
        path.push(part);
    }
    let real = tokio::fs::canonicalize(&path).await.ok()?;
    real.starts_with(root).then_some(real)
}

fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
        let (high, low) = (digit(bytes.next())?, digit(bytes.next())?);
        decoded.push(u8::try_from(high * 16 + low).ok()?);
    }
    String::from_utf8(decoded).ok()
}

async fn file(path: &Path) -> Response {
    // A fifo or device would block or never end.
    if !path.is_file() {
        return plain(StatusCode::NOT_FOUND, "no such file");
    }
    let Ok(opened) = tokio::fs::File::open(path).await else {
        return plain(StatusCode::FORBIDDEN, "this file cannot be read");
    };
    let Ok(metadata) = opened.metadata().await else {
        return plain(StatusCode::FORBIDDEN, "this file cannot be read");
    };
    // A file that grows meanwhile is sent up to the length that was announced.
    let chunks = futures_util::stream::try_unfold(opened.take(metadata.len()), async |mut rest| {
        let mut chunk = vec![0; 64 * 1024];
        let read = rest.read(&mut chunk).await?;
        chunk.truncate(read);
        Ok::<_, std::io::Error>((read > 0).then(|| (Bytes::from(chunk), rest)))
    });
    respond(
        StatusCode::OK,
        content_type(path),
        Body::from_stream(chunks),
    )
    .map(|response| {
        with_header(
            response,
            header::CONTENT_LENGTH,
            &metadata.len().to_string(),
        )
    })
    .unwrap_or_default()
}

async fn listing(asked: &str, directory: &Path) -> Response {
    let Ok(mut entries) = tokio::fs::read_dir(directory).await else {
        return plain(StatusCode::FORBIDDEN, "this directory cannot be read");
    };
    let mut names = Vec::new();
    while let Ok(Some(entry)) = entries.next_entry().await {
        let mut name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type().await.is_ok_and(|kind| kind.is_dir()) {
            name.push('/');
        }
        names.push(name);
    }
    names.sort();
    let title = escape(&percent_decode(asked).unwrap_or_default());
    let mut html = format!("<!doctype html><title>{title}</title><h1>{title}</h1><ul>");
    for name in names {
        let shown = escape(&name);
        let link = percent_encode(&name);
        let _infallible = write!(html, "<li><a href=\"./{link}\">{shown}</a>");
    }
    html.push_str("</ul>\n");
    respond(StatusCode::OK, "text/html; charset=utf-8", Body::from(html)).unwrap_or_default()
}

fn percent_encode(name: &str) -> String {
    name.bytes().fold(String::new(), |mut encoded, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _infallible = write!(encoded, "%{byte:02X}");
        }
        encoded
    })
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

fn plain(status: StatusCode, text: &str) -> Response {
    respond(
        status,
        "text/plain; charset=utf-8",
        Body::from(format!("{text}\n")),
    )
    .unwrap_or_default()
}

fn respond(status: StatusCode, content_type: &str, body: Body) -> Result<Response, http::Error> {
    Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, content_type)
        .body(body)
}

fn with_header(mut response: Response, name: header::HeaderName, value: &str) -> Response {
    if let Ok(value) = header::HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
    response
}

fn content_type(path: &Path) -> &'static str {
    match path.extension().and_then(|e| e.to_str()) {
        Some("html" | "htm") => "text/html; charset=utf-8",
        Some("txt" | "md" | "log") => "text/plain; charset=utf-8",
        Some("css") => "text/css",
        Some("js") => "text/javascript",
        Some("json") => "application/json",
        Some("svg") => "image/svg+xml",
        Some("png") => "image/png",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nothing_outside_the_directory_is_served() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret"), "s").unwrap();
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        std::fs::write(root.join("a b"), "x").unwrap();
        std::os::unix::fs::symlink(outside.path(), root.join("link")).unwrap();
        assert_eq!(resolve(&root, "/a%20b").await, Some(root.join("a b")));
        for asked in [
            "/../secret",
            "/%2e%2e/secret",
            "/..%2fsecret",
            "/link/secret",
            "/link",
            "/a%00b",
            "/%zz",
            "//etc/passwd",
        ] {
            assert_eq!(resolve(&root, asked).await, None, "{asked}");
        }
    }

    #[test]
    fn names_in_a_listing_cannot_become_markup() {
        assert_eq!(escape("<b>\"&"), "&lt;b&gt;&quot;&amp;");
        assert_eq!(percent_encode("a\"b"), "a%22b");
    }
}
