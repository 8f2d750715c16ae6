//! `fetch` and its elder twin `uris`: files to bring into the sandbox.

use super::super::answer::Problems;
use super::super::app::Fetch;
use super::super::json::Fields;

pub(super) fn read(f: &mut Fields<'_>, p: &mut Problems) -> Vec<Fetch> {
    let uris = f.texts("uris", p).filter(|uris| !uris.is_empty());
    let list = f.list("fetch", p).filter(|list| !list.is_empty());
    if uris.is_some() && list.is_some() {
        p.rule("/uris", "give uris or fetch, not both");
    }
    let mut files = Vec::new();
    for (i, uri) in uris.into_iter().flatten().enumerate() {
        let file = Fetch {
            uri,
            extract: true,
            executable: false,
            cache: false,
            dest_path: None,
        };
        check_fetch(&format!("/uris({i})"), &file, p);
        files.push(file);
    }
    for (i, value) in list.into_iter().flatten().enumerate() {
        let at = format!("/fetch({i})");
        let Some(mut inner) = Fields::of(at.clone(), value, p) else {
            continue;
        };
        let Some(uri) = inner.text("uri", p) else {
            p.rule(inner.at("uri"), "is undefined; name the file to bring");
            continue;
        };
        let file = Fetch {
            uri,
            extract: inner.flag("extract", p).unwrap_or(true),
            executable: inner.flag("executable", p).unwrap_or(false),
            cache: inner.flag("cache", p).unwrap_or(false),
            dest_path: inner.text("destPath", p),
        };
        inner.finish(p);
        check_fetch(&at, &file, p);
        files.push(file);
    }
    files
}

fn check_fetch(at: &str, file: &Fetch, p: &mut Problems) {
    let known = ["/", "file:///", "http://", "https://"];
    if !known.iter().any(|start| file.uri.starts_with(start)) {
        p.rule(
            at,
            format!(
                "{:?} cannot be fetched yet; give an absolute path, file:///, http:// or https://",
                file.uri.chars().take(80).collect::<String>()
            ),
        );
    }
    if let Some(dest) = &file.dest_path
        && (dest.is_empty() || dest.starts_with('/') || dest.split('/').any(|part| part == ".."))
    {
        p.rule(at, "destPath must be a path below the sandbox");
    }
}
