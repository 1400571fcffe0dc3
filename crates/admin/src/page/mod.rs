//! The page's files, inside the binary.
//!
//! Every asset's name carries the hash of its content, so that browsers may keep it for ever and still get the next
//! release at once. Modules name each other by their plain names; the names are exchanged when the process starts,
//! leaves first, so that a change anywhere changes every name above it.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::error::ApiError;

#[cfg(test)]
mod tests;

const JS: &str = "text/javascript; charset=utf-8";

/// A file of the page.
struct Source {
    name: &'static str,
    kind: &'static str,
    text: &'static str,
}

macro_rules! sources {
    ($($name:literal: $kind:expr),+ $(,)?) => {
        [$(Source { name: $name, kind: $kind, text: include_str!(concat!("../../page/", $name)) }),+]
    };
}

/// Each file before those that name it.
static SOURCES: &[Source] = &sources![
    "icon.svg": "image/svg+xml",
    "app.css": "text/css; charset=utf-8",
    "theme.js": JS,
    "format.js": JS,
    "dom.js": JS,
    "api.js": JS,
    "live.js": JS,
    "words.js": JS,
    "table.js": JS,
    "waterfall.js": JS,
    "jobs.js": JS,
    "runners.js": JS,
    "status.js": JS,
    "job.js": JS,
    "help.js": JS,
    "app.js": JS,
];

static SHELL: &str = include_str!("../../page/index.html");

struct Asset {
    kind: &'static str,
    etag: String,
    body: Bytes,
}

/// The page, ready to serve.
pub(crate) struct Site {
    shell: Asset,
    assets: BTreeMap<String, Asset>,
}

impl Site {
    pub(crate) fn new() -> Self {
        let mut names: Vec<(&str, String)> = Vec::new();
        let mut assets = BTreeMap::new();
        for source in SOURCES {
            let asset = Asset::of(source.kind, exchange(source.text, &names));
            let (stem, extension) = source.name.rsplit_once('.').unwrap_or((source.name, ""));
            let name = format!("{stem}-{}.{extension}", asset.etag);
            names.push((source.name, name.clone()));
            assets.insert(name, asset);
        }
        Self { shell: Asset::of("text/html; charset=utf-8", exchange(SHELL, &names)), assets }
    }

    /// Answers below `/admin/`: assets by their name, the shell for everything that looks like a page. A file that
    /// does not exist is 404, not a page in its place: a script that is HTML breaks without a word.
    pub(crate) async fn serve(State(site): State<Arc<Self>>, uri: Uri, headers: HeaderMap) -> Response {
        let path = uri.path().trim_start_matches("/admin/");
        let (asset, caching) = match path.strip_prefix("assets/") {
            Some(name) => (site.assets.get(name), "public,max-age=31536000,immutable"),
            None if path.rsplit('/').next().unwrap_or_default().contains('.') => (None, ""),
            None => (Some(&site.shell), "no-cache"),
        };
        match asset {
            Some(asset) => asset.answer(&headers, caching),
            None => ApiError::not_found().into_response(),
        }
    }
}

impl Asset {
    fn of(kind: &'static str, text: String) -> Self {
        let etag = hex::encode(&Sha256::digest(&text)[..6]);
        Self { kind, etag, body: Bytes::from(text) }
    }

    fn answer(&self, asked: &HeaderMap, caching: &'static str) -> Response {
        let etag = format!("\"{}\"", self.etag);
        let known = asked.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
        let fresh = known.flat_map(|tags| tags.split(',')).any(|tag| tag.trim().trim_start_matches("W/") == etag);
        let kind = HeaderValue::from_static(self.kind);
        let headers = [
            (header::CONTENT_TYPE, kind),
            (header::CACHE_CONTROL, HeaderValue::from_static(caching)),
            (header::ETAG, HeaderValue::from_str(&etag).unwrap_or(HeaderValue::from_static("\"\""))),
        ];
        if fresh {
            (StatusCode::NOT_MODIFIED, headers).into_response()
        } else {
            (headers, self.body.clone()).into_response()
        }
    }
}

/// Puts the served names in the place of the plain ones: `"./name.js"` and `/admin/assets/name.css`.
fn exchange(text: &str, names: &[(&str, String)]) -> String {
    names.iter().fold(text.to_owned(), |text, (plain, served)| {
        text.replace(&format!("\"./{plain}\""), &format!("\"./{served}\""))
            .replace(&format!("/admin/assets/{plain}\""), &format!("/admin/assets/{served}\""))
    })
}
