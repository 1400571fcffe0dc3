//! The `key=value` segments of a spec, and the grammar of each kind of value.

use std::collections::BTreeSet;

use domain::launch::Arch;

use super::Warning;

/// The last non-empty value of every key.
#[derive(Default)]
pub(super) struct Keys<'a> {
    pub(super) runner: Option<&'a str>,
    pub(super) cpu: Option<&'a str>,
    pub(super) ram: Option<&'a str>,
    pub(super) family: Option<&'a str>,
    pub(super) gen_: Option<&'a str>,
    pub(super) arch: Option<&'a str>,
    pub(super) disk: Option<&'a str>,
    pub(super) pool: Option<&'a str>,
    pub(super) private: Option<&'a str>,
    pub(super) public: Option<&'a str>,
    pub(super) spot: Option<&'a str>,
    pub(super) region: Option<&'a str>,
    pub(super) env: Option<&'a str>,
    pub(super) backend: Option<&'a str>,
}

impl<'a> Keys<'a> {
    /// Splits the text. A segment that says nothing usable is skipped before repeats are looked for, so `cpu=4/cpu=`
    /// still asks for four: an expression that expanded to nothing takes nothing away.
    pub(super) fn split(text: &'a str, warnings: &mut BTreeSet<Warning>) -> Self {
        let mut keys = Self::default();
        for segment in text.split('/').filter(|segment| !segment.is_empty()) {
            let Some((key, value)) = segment.split_once('=') else {
                warnings.insert(Warning::IgnoredSegment);
                continue;
            };
            let Some(slot) = keys.slot(key) else {
                warnings.insert(Warning::UnknownKey);
                continue;
            };
            if value.is_empty() {
                warnings.insert(Warning::EmptyValue);
            } else if slot.replace(value).is_some() {
                warnings.insert(Warning::DuplicateKey);
            }
        }
        keys
    }

    fn slot(&mut self, key: &str) -> Option<&mut Option<&'a str>> {
        Some(match key {
            "runner" => &mut self.runner,
            "cpu" => &mut self.cpu,
            "ram" => &mut self.ram,
            "family" => &mut self.family,
            "gen" => &mut self.gen_,
            "arch" => &mut self.arch,
            "disk" => &mut self.disk,
            "pool" => &mut self.pool,
            "private" => &mut self.private,
            "public" => &mut self.public,
            "spot" => &mut self.spot,
            "region" => &mut self.region,
            "env" => &mut self.env,
            "backend" => &mut self.backend,
            _ => return None,
        })
    }

    /// Whether the label describes the machine rather than naming it.
    pub(super) fn flexible(&self) -> bool {
        self.cpu.is_some() || self.ram.is_some() || self.family.is_some() || self.gen_.is_some()
    }
}

/// One to `most` decimal digits.
pub(super) fn digits(text: &str, most: usize) -> Option<u32> {
    let valid = (1..=most).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    if valid { text.parse().ok() } else { None }
}

/// Up to six digits, and perhaps a point and up to three more. No sign, no exponent, no `NaN`.
fn decimal(text: &str) -> Option<f64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    digits(whole, 6)?;
    digits(fraction, 3)?;
    text.parse().ok()
}

/// `n`, `min+max` or `min-max`. A missing maximum is zero, and zero is no maximum. `None` also for crossed bounds.
fn range<N: Copy + Default + PartialOrd>(text: &str, number: impl Fn(&str) -> Option<N>) -> Option<(N, N)> {
    let (min, max) = match text.split_once(['+', '-']) {
        None => (number(text)?, N::default()),
        Some((min, max)) => (number(min)?, number(max)?),
    };
    if max > N::default() && min > max { None } else { Some((min, max)) }
}

/// vCPU bounds, each of at most five digits.
pub(super) fn cpu(text: &str) -> Option<(u32, u32)> {
    range(text, |n| digits(n, 5))
}

/// Memory bounds in GiB.
pub(super) fn ram(text: &str) -> Option<(f64, f64)> {
    range(text, decimal)
}

/// Names joined by `+`, as written, without empty ones and repeats.
pub(super) fn families(text: &str) -> Vec<String> {
    let mut families: Vec<String> = Vec::new();
    for name in text.split('+').filter(|name| !name.is_empty()) {
        if !families.iter().any(|known| known.eq_ignore_ascii_case(name)) {
            families.push(name.to_owned());
        }
    }
    families
}

/// An architecture, or a warning and either.
pub(super) fn arch(text: &str, warnings: &mut BTreeSet<Warning>) -> Option<Arch> {
    let arch = Arch::parse(text);
    if arch.is_none() {
        warnings.insert(Warning::UnknownArch);
    }
    arch
}

/// `private` and `spot` know exactly two words; any other warns and reads as `otherwise`.
pub(super) fn exact_bool(text: &str, otherwise: bool, warnings: &mut BTreeSet<Warning>) -> bool {
    match text {
        "true" => true,
        "false" => false,
        _ => {
            warnings.insert(Warning::AmbiguousBool);
            otherwise
        }
    }
}

/// `public` takes the short forms too, in any case.
pub(super) fn lenient_bool(text: &str, warnings: &mut BTreeSet<Warning>) -> bool {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "t" => true,
        "false" | "0" | "f" => false,
        _ => {
            warnings.insert(Warning::AmbiguousBool);
            false
        }
    }
}
