use std::collections::BTreeSet;
use std::path::Path;

use super::*;

/// Everything between double quotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('"').skip(1).step_by(2)
}

fn text(asset: &Asset) -> &str {
    std::str::from_utf8(&asset.body).expect("the page is text")
}

/// The assets a served file names.
fn references(asset: &Asset) -> impl Iterator<Item = &str> {
    quoted(text(asset)).filter_map(|text| text.strip_prefix("./").or_else(|| text.strip_prefix("/admin/assets/")))
}

#[test]
fn every_asset_that_is_named_exists_and_every_asset_is_named() {
    let site = Site::new();
    let mut named = BTreeSet::new();
    for asset in site.assets.values().chain([&site.shell]) {
        for name in references(asset) {
            assert!(site.assets.contains_key(name), "{name}");
            named.insert(name.to_owned());
        }
    }
    assert_eq!(named, site.assets.keys().cloned().collect());
}

#[test]
fn every_file_of_the_folder_is_served() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("page");
    let files: BTreeSet<_> = folder
        .read_dir()
        .expect("the folder")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("a plain name"))
        .filter(|name| name != "index.html")
        .collect();
    assert_eq!(files, SOURCES.iter().map(|source| source.name.to_owned()).collect());
}

#[test]
fn a_change_changes_the_names_of_all_that_lean_on_it() {
    let leaf = |text: &str| {
        let name = format!("leaf-{}.js", Asset::of(JS, text.to_owned()).etag);
        Asset::of(JS, exchange("import \"./leaf.js\";", &[("leaf.js", name)])).etag
    };
    assert_ne!(leaf("1"), leaf("2"));
    assert_eq!(leaf("1"), leaf("1"));
}

/// The content policy forbids inline code and third parties, and data must never become markup.
#[test]
fn nothing_is_inline_foreign_or_parsed_as_markup() {
    let markup = ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "DOMParser", "eval(", "Function("];
    for source in SOURCES {
        for word in markup {
            assert!(!source.text.contains(word), "{} in {}", word, source.name);
        }
        let foreign = source.text.replace("http://www.w3.org/2000/svg", "");
        assert!(!foreign.contains("http://") && !foreign.contains("https://"), "{}", source.name);
        assert!(!foreign.contains("setAttribute(\"style\""), "{}", source.name);
    }
    assert!(!SHELL.contains("<style") && !SHELL.contains(" style=") && !SHELL.contains("onload="));
    let scripts: Vec<_> = SHELL.split("<script").skip(1).collect();
    assert!(scripts.iter().all(|script| script.contains("src=\"/admin/assets/") && script.contains("></script>")));
}

#[test]
fn the_page_is_small() {
    let site = Site::new();
    let bytes: usize = site.assets.values().chain([&site.shell]).map(|asset| asset.body.len()).sum();
    assert!(bytes < 200 * 1024, "{bytes}");
}
