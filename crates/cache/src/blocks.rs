//! Ids of blocks, and the list that puts them in order. Pure.
//!
//! Clients make up their ids: a counter behind a random part, a random number, anything. Order is what the list says.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

/// Bytes of a block's id.
const ID_BYTES: usize = 64;
/// Blocks of one list.
pub const MAX_BLOCKS: usize = 50_000;

/// Reads a block's id: base64 of 1 to 64 bytes, in its one canonical form.
pub fn block_id(text: &str) -> Option<Vec<u8>> {
    let id = BASE64.decode(text).ok()?;
    (1..=ID_BYTES).contains(&id.len()).then_some(id)
}

/// Why a block list is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadList {
    /// It is not the XML that was asked for.
    Xml,
    /// It names something that cannot be a block, or too much.
    Block,
}

/// Reads `<BlockList>` with its `Latest`, `Uncommitted` and `Committed`, in the order of the document.
///
/// This is all the XML there is: comments, entities, document types and other elements are refused.
///
/// # Errors
/// See [`BadList`].
pub fn block_list(text: &str) -> Result<Vec<Vec<u8>>, BadList> {
    let mut rest = text.trim_start_matches('\u{feff}').trim_start();
    if let Some(after) = rest.strip_prefix("<?xml") {
        rest = after.split_once("?>").ok_or(BadList::Xml)?.1.trim_start();
    }
    let (root, empty, mut rest) = opening(rest)?;
    if root != "BlockList" {
        return Err(BadList::Xml);
    }
    let mut blocks = Vec::new();
    if !empty {
        loop {
            rest = rest.trim_start();
            if let Some(after) = rest.strip_prefix("</") {
                rest = closing("BlockList", after)?;
                break;
            }
            let (name, empty, after) = opening(rest)?;
            if empty || !["Latest", "Uncommitted", "Committed"].contains(&name) {
                return Err(BadList::Xml);
            }
            let (id, after) = after.split_once("</").ok_or(BadList::Xml)?;
            if id.contains(['<', '&']) {
                return Err(BadList::Xml);
            }
            rest = closing(name, after)?;
            blocks.push(block_id(id.trim()).ok_or(BadList::Block)?);
            if blocks.len() > MAX_BLOCKS {
                return Err(BadList::Block);
            }
        }
    }
    if rest.trim().is_empty() { Ok(blocks) } else { Err(BadList::Xml) }
}

/// `<name …>` or `<name …/>`: the name, whether it ends at once, what follows.
fn opening(text: &str) -> Result<(&str, bool, &str), BadList> {
    let (tag, rest) = text.strip_prefix('<').and_then(|text| text.split_once('>')).ok_or(BadList::Xml)?;
    let (tag, empty) = tag.strip_suffix('/').map_or((tag, false), |tag| (tag, true));
    let (name, attributes) = tag.split_at(tag.find(|c: char| c.is_ascii_whitespace()).unwrap_or(tag.len()));
    if name.is_empty() || attributes.contains(['<', '&']) {
        return Err(BadList::Xml);
    }
    Ok((name, empty, rest))
}

fn closing<'a>(name: &str, text: &'a str) -> Result<&'a str, BadList> {
    let (tag, rest) = text.split_once('>').ok_or(BadList::Xml)?;
    if tag.trim_end() == name { Ok(rest) } else { Err(BadList::Xml) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ids_of_real_clients_are_legal() {
        for bytes in [1, 16, 48, 64] {
            let id = vec![0xfb; bytes];
            assert_eq!(block_id(&BASE64.encode(&id)), Some(id));
        }
        for bad in ["", "A", "AB", "AB==AB==", "QR==", "AA-_", "AA\n=", &BASE64.encode([0; 65])] {
            assert_eq!(block_id(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn lists_of_real_clients_are_read_in_order() {
        let list = "<?xml version=\"1.0\" encoding=\"UTF-8\" standalone=\"yes\"?><BlockList><Latest>Yg==</Latest>\n \
                    <Uncommitted> YQ== </Uncommitted><Committed>Yg==</Committed></BlockList>\n";
        assert_eq!(block_list(list), Ok(vec![b"b".to_vec(), b"a".to_vec(), b"b".to_vec()]));
        for empty in ["<BlockList/>", "<BlockList />", "\u{feff}<BlockList></BlockList>", "<BlockList>\n</BlockList >"]
        {
            assert_eq!(block_list(empty), Ok(Vec::new()), "{empty}");
        }
    }

    #[test]
    fn anything_else_is_no_list() {
        use BadList::{Block, Xml};
        for (bad, why) in [
            ("", Xml),
            ("{}", Xml),
            ("<BlockList>", Xml),
            ("<BlockList><Latest>YQ==</Latest>", Xml),
            ("<BlockList><Latest>YQ==</BlockList>", Xml),
            ("<Blocks></Blocks>", Xml),
            ("<BlockList></BlockList><x/>", Xml),
            ("<BlockList><Newest>YQ==</Newest></BlockList>", Xml),
            ("<BlockList><Latest/></BlockList>", Xml),
            ("<!DOCTYPE x [<!ENTITY e \"YQ==\">]><BlockList><Latest>&e;</Latest></BlockList>", Xml),
            ("<BlockList><Latest>&e;</Latest></BlockList>", Xml),
            ("<BlockList><!-- --><Latest>YQ==</Latest></BlockList>", Xml),
            ("< BlockList></BlockList>", Xml),
            ("<  \u{783}\"\n J >]l~", Xml),
            ("<BlockList><Latest>!</Latest></BlockList>", Block),
            ("<BlockList><Latest></Latest></BlockList>", Block),
        ] {
            assert_eq!(block_list(bad), Err(why), "{bad}");
        }
        let long = format!("<BlockList>{}</BlockList>", "<Latest>YQ==</Latest>".repeat(MAX_BLOCKS + 1));
        assert_eq!(block_list(&long), Err(Block));
    }

    proptest! {
        #[test]
        fn reading_never_fails_badly(text in "(<[/!?]?[ \n]{0,3}(BlockList|Latest|ރ)? ?/?>?|YQ==|&|;|é|\\PC){0,12}") {
            let _ = block_list(&text);
        }
    }
}
