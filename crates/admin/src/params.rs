//! Query parameters, read strictly: what is unknown, repeated or malformed is refused by name.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;

use domain::clock::Timestamp;

use crate::error::ApiError;

/// The parameters of one request.
#[derive(Debug)]
pub(crate) struct Params(BTreeMap<String, String>);

impl Params {
    /// Reads a query string that may hold the `known` names. An empty value counts as absent: that is how a form
    /// sends a field nobody filled in.
    pub(crate) fn read(query: Option<&str>, known: &[&str]) -> Result<Self, ApiError> {
        let mut params = BTreeMap::new();
        for (name, value) in url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            if !known.contains(&name.as_ref()) {
                return Err(ApiError::parameter(&name, format!("unknown; known are {}", known.join(", "))));
            }
            if params.insert(name.to_string(), value.into_owned()).is_some() {
                return Err(ApiError::parameter(&name, "given twice"));
            }
        }
        params.retain(|_, value| !value.is_empty());
        Ok(Self(params))
    }

    /// The text.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Anything that says itself what is wrong with a text.
    pub(crate) fn parsed<T: FromStr<Err: Display>>(&self, name: &str) -> Result<Option<T>, ApiError> {
        let parse = |text: &str| text.parse().map_err(|error: T::Err| ApiError::parameter(name, error.to_string()));
        self.text(name).map(parse).transpose()
    }

    /// A whole number within bounds.
    pub(crate) fn number(&self, name: &str, min: usize, max: usize) -> Result<Option<usize>, ApiError> {
        let wrong = || ApiError::parameter(name, format!("must be a number from {min} to {max}"));
        let parse = |text: &str| match text.parse() {
            Ok(number) if (min..=max).contains(&number) => Ok(number),
            _ => Err(wrong()),
        };
        self.text(name).map(parse).transpose()
    }

    /// A point in time.
    pub(crate) fn time(&self, name: &str) -> Result<Option<Timestamp>, ApiError> {
        let wrong = |_| ApiError::parameter(name, "must be an RFC 3339 time such as 2026-01-31T12:00:00Z");
        self.text(name).map(|text| text.parse().map_err(wrong)).transpose()
    }

    /// A list of words, separated by commas, each one that `read` knows.
    pub(crate) fn words<T>(
        &self,
        name: &str,
        known: impl FnOnce() -> Vec<&'static str>,
        read: impl Fn(&str) -> Option<T>,
    ) -> Result<Vec<T>, ApiError> {
        let words = self.text(name).map(|text| text.split(',').map(read).collect::<Option<Vec<T>>>());
        match words {
            None => Ok(Vec::new()),
            Some(Some(words)) => Ok(words),
            Some(None) => Err(ApiError::parameter(name, format!("must be of {}", known().join(", ")))),
        }
    }
}
