//! The addresses that bytes go to and come from. Pure.
//!
//! An address is its own permission: it is signed, for one upload or one entry and for a while. No token is needed
//! beside it, and clients of Azure's storage send none.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use domain::clock::Timestamp;
use hmac::Mac;
use percent_encoding::percent_decode_str;

use crate::layout::{Data, UploadId};
use crate::token;

/// Path of uploads, without the id.
pub(crate) const UPLOAD: &str = "/_rfcache/u";
/// Path of downloads, without the id.
pub(crate) const DOWNLOAD: &str = "/_rfcache/d";
/// Seconds that an upload's address is good for.
const UPLOAD_LIFE: i64 = 6 * 3600;
/// Seconds that a download's address is good for.
const DOWNLOAD_LIFE: i64 = 3600;

/// Signs addresses, and checks them.
#[derive(Clone)]
pub(crate) struct Signer(Vec<[u8; 32]>);

/// An address with a bad signature, or a good one of the past.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NotSigned;

impl Signer {
    /// Signs with the first key, checks with all.
    pub(crate) fn new(keys: Vec<[u8; 32]>) -> Self {
        Self(keys)
    }

    /// Where an upload's bytes go.
    pub(crate) fn upload(&self, base: &str, id: UploadId, now: Timestamp) -> String {
        let expires = now.as_second() + UPLOAD_LIFE;
        let sig = self.sign("u", id, "", expires);
        format!("{}{UPLOAD}/{id}?sig={sig}&se={expires}", base.trim_end_matches('/'))
    }

    /// Where an entry's bytes come from.
    pub(crate) fn download(&self, base: &str, data: &Data, now: Timestamp) -> String {
        let (id, expires) = (data.id(), now.as_second() + DOWNLOAD_LIFE);
        let object = BASE64URL.encode(data.relative());
        let sig = self.sign("d", id, &object, expires);
        format!("{}{DOWNLOAD}/{id}?o={object}&sig={sig}&se={expires}", base.trim_end_matches('/'))
    }

    pub(crate) fn check_upload(&self, id: UploadId, query: &Parameters<'_>, now: Timestamp) -> Result<(), NotSigned> {
        self.check("u", id, "", query, now)
    }

    pub(crate) fn check_download(
        &self,
        id: UploadId,
        query: &Parameters<'_>,
        now: Timestamp,
    ) -> Result<Data, NotSigned> {
        let object = query.get("o").ok_or(NotSigned)?;
        self.check("d", id, &object, query, now)?;
        let object = BASE64URL.decode(object).ok().and_then(|name| String::from_utf8(name).ok()).ok_or(NotSigned)?;
        Data::parse(&object).filter(|data| data.id() == id).ok_or(NotSigned)
    }

    fn sign(&self, kind: &str, id: UploadId, object: &str, expires: i64) -> String {
        let key = self.0.first().map_or(&[][..], |key| key);
        BASE64URL.encode(token::keyed(key, message(kind, id, object, expires).as_bytes()).finalize().into_bytes())
    }

    fn check(
        &self,
        kind: &str,
        id: UploadId,
        object: &str,
        query: &Parameters<'_>,
        now: Timestamp,
    ) -> Result<(), NotSigned> {
        let expires: i64 = query.get("se").and_then(|se| se.parse().ok()).ok_or(NotSigned)?;
        let sig = query.get("sig").and_then(|sig| BASE64URL.decode(sig).ok()).ok_or(NotSigned)?;
        let message = message(kind, id, object, expires);
        let good = self.0.iter().any(|key| token::keyed(key, message.as_bytes()).verify_slice(&sig).is_ok());
        if good && now.as_second() < expires { Ok(()) } else { Err(NotSigned) }
    }
}

fn message(kind: &str, id: UploadId, object: &str, expires: i64) -> String {
    format!("{kind}\n{id}\n{object}\n{expires}")
}

/// The parameters behind the question mark. `+` is itself: base64 is full of it, and no client means a space.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Parameters<'a>(&'a str);

impl<'a> Parameters<'a> {
    pub(crate) fn new(query: Option<&'a str>) -> Self {
        Self(query.unwrap_or_default())
    }

    /// The first of this name; `None` also when it is not text.
    pub(crate) fn get(&self, name: &str) -> Option<String> {
        let mut pairs = self.0.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        let (_, value) = pairs.find(|(key, _)| *key == name)?;
        percent_decode_str(value).decode_utf8().ok().map(std::borrow::Cow::into_owned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Entry;
    use crate::scope::Repository;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("in range")
    }

    fn query(url: &str) -> String {
        url.split_once('?').expect("a query").1.to_owned()
    }

    #[test]
    fn an_address_is_good_for_one_thing_and_a_while() {
        let signer = Signer::new(vec![[7; 32]]);
        let (id, other) = (UploadId::new(5).expect("good"), UploadId::new(6).expect("good"));
        let url = signer.upload("http://h/", id, at(0));
        assert!(url.starts_with("http://h/_rfcache/u/5?sig="), "{url}");
        let text = query(&url);
        let asked = format!("comp=block&{text}&blockid=a%2Bb");
        let parameters = Parameters::new(Some(&asked));
        assert_eq!(parameters.get("blockid").as_deref(), Some("a+b"));
        assert_eq!(signer.check_upload(id, &parameters, at(UPLOAD_LIFE - 1)), Ok(()));
        assert_eq!(signer.check_upload(id, &parameters, at(UPLOAD_LIFE)), Err(NotSigned));
        assert_eq!(signer.check_upload(other, &parameters, at(1)), Err(NotSigned));
        assert_eq!(Signer::new(vec![[8; 32]]).check_upload(id, &parameters, at(1)), Err(NotSigned));
        assert_eq!(Signer::new(vec![[8; 32], [7; 32]]).check_upload(id, &parameters, at(1)), Ok(()), "rotation");
        for bad in ["", "sig=x", "se=9", "sig=&se=", &text.replace("se=", "se=9")] {
            assert_eq!(signer.check_upload(id, &Parameters::new(Some(bad)), at(1)), Err(NotSigned), "{bad}");
        }
    }

    #[test]
    fn a_download_names_its_object_under_the_signature() {
        let signer = Signer::new(vec![[7; 32]]);
        let repo = Repository::parse("a/b").expect("good");
        let id = UploadId::new(5).expect("good");
        let data =
            Entry { repo: &repo, scope: "s", version: "v", key: "../k" }.data(id, "00112233445566778899aabbccddeeff");
        let text = query(&signer.download("http://h", &data, at(0)));
        assert_eq!(signer.check_download(id, &Parameters::new(Some(&text)), at(1)), Ok(data));
        let other = BASE64URL.encode("a/b/../../../../etc/passwd");
        let object = Parameters::new(Some(&text)).get("o").expect("there");
        let forged = text.replace(&object, &other);
        assert_eq!(signer.check_download(id, &Parameters::new(Some(&forged)), at(1)), Err(NotSigned));
    }
}
