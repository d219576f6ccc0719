//! `--provenance`, `--sbom` and `--attest`: read and checked as buildx does.
//!
//! No attestation is made yet. A build that asks for one says so; with `required=true`, or
//! `--require-attestations`, that is an error.
//!
//! Source: docker/buildx, `util/buildflags/attests.go`; BuildKit, `frontend/attestations`.

use crate::cli::failure::{Class, Failure};
use crate::cli::parse_args;
use crate::export::split_csv;
use std::collections::BTreeMap;

/// The flags, as they were typed.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct AttestationArgs {
    /// Provenance of the image: none is made yet, and a build that asks for it says so
    #[arg(long, value_name = "BOOL|ATTRIBUTES")]
    pub provenance: Option<String>,
    /// Software bill of materials: as --provenance
    #[arg(long, value_name = "BOOL|ATTRIBUTES")]
    pub sbom: Option<String>,
    /// Attestation, as type=provenance,mode=max or type=sbom: as --provenance
    #[arg(long, value_name = "type=TYPE[,ATTRIBUTES]")]
    pub attest: Vec<String>,
    /// Fail where an attestation that is asked for is not made
    #[arg(long)]
    pub require_attestations: bool,
}

/// The keys that an attestation of a type may have besides `type`, `disabled` and `required`.
const TYPES: [(&str, &[&str]); 2] = [
    ("provenance", &["mode", "version", "builder-id", "reproducible", "inline-only", "filename"]),
    ("sbom", &["generator"]),
];

impl AttestationArgs {
    /// Returns the notice that what is asked for is not made, if anything is.
    ///
    /// # Errors
    ///
    /// A failure of class usage for what buildx would refuse, and for an attestation that is
    /// required.
    pub(super) fn notice(&self) -> Result<Option<String>, Failure> {
        let usage = |message: String| Failure::new(Class::Usage, message);
        let mut wanted: BTreeMap<String, bool> = BTreeMap::new();
        let mut add =
            |flag: &str, text: &str| -> Result<(), String> {
                let (kind, is_wanted, is_required) = read(text)?;
                // As buildx: the short flags go before `--attest`, which may name each type once.
                match wanted.entry(kind) {
                    std::collections::btree_map::Entry::Occupied(known) if flag == "--attest" => {
                        Err(format!("type {} is given twice", known.key()))
                    }
                    std::collections::btree_map::Entry::Occupied(_) => Ok(()),
                    std::collections::btree_map::Entry::Vacant(entry) => {
                        entry.insert(is_wanted);
                        match is_wanted && (is_required || self.require_attestations) {
                            true => Err("attestations are not made yet, and this one is required"
                                .to_owned()),
                            false => Ok(()),
                        }
                    }
                }
            };
        for text in &self.attest {
            add("--attest", text).map_err(|why| usage(format!("--attest {text}: {why}")))?;
        }
        for (kind, text) in [("provenance", &self.provenance), ("sbom", &self.sbom)] {
            let Some(text) = text else { continue };
            let full = match parse_args::truth(text) {
                Ok(is_wanted) => format!("type={kind},disabled={}", !is_wanted),
                Err(_) => format!("type={kind},{text}"),
            };
            add(kind, &full).map_err(|why| usage(format!("--{kind}={text}: {why}")))?;
        }
        let kinds: Vec<&str> =
            wanted.iter().filter(|(_, is_wanted)| **is_wanted).map(|(kind, _)| &**kind).collect();
        Ok((!kinds.is_empty()).then(|| {
            format!(
                "no attestation is written ({}): attestations are not made yet",
                kinds.join(", ")
            )
        }))
    }
}

/// Reads an attestation: its type, whether it is wanted, and whether the build is to fail without
/// it.
fn read(text: &str) -> Result<(String, bool, bool), String> {
    let fields = split_csv(text).map_err(|error| error.to_string())?;
    let mut pairs = Vec::new();
    for field in &fields {
        let (key, value) = field.split_once('=').ok_or(format!("{field:?} is not key=value"))?;
        let key = key.trim().to_lowercase();
        if pairs.iter().any(|(known, _)| *known == key) {
            return Err(format!("{key} is given twice"));
        }
        pairs.push((key, value));
    }
    let kind = pairs.iter().find(|(key, _)| key == "type").map(|(_, value)| *value);
    let kind = kind.ok_or("type= is missing: expected provenance or sbom")?;
    let Some((_, keys)) = TYPES.iter().find(|(name, _)| *name == kind) else {
        return Err(format!("unknown type {kind:?}: expected provenance or sbom"));
    };
    let (mut is_wanted, mut is_required) = (true, false);
    for (key, value) in &pairs {
        match key.as_str() {
            "type" => {}
            "disabled" => is_wanted = !parse_args::truth(value)?,
            "required" => is_required = parse_args::truth(value)?,
            "mode" if !matches!(*value, "min" | "max") => {
                return Err(format!("mode is {value:?}: expected min or max"));
            }
            "reproducible" | "inline-only" => drop(parse_args::truth(value)?),
            key if keys.contains(&key) => {}
            key => return Err(format!("unknown key {key}: expected {}", keys.join(", "))),
        }
    }
    Ok((kind.to_owned(), is_wanted, is_required))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notice(
        provenance: Option<&str>,
        sbom: Option<&str>,
        attest: &[&str],
    ) -> Result<Option<String>, String> {
        let args = AttestationArgs {
            provenance: provenance.map(str::to_owned),
            sbom: sbom.map(str::to_owned),
            attest: attest.iter().map(|text| (*text).to_owned()).collect(),
            require_attestations: false,
        };
        args.notice().map_err(|failure| failure.message)
    }

    #[test]
    fn attestations_are_read_as_buildx_reads_them() {
        let none = |kinds: &str| {
            Ok(Some(format!("no attestation is written ({kinds}): attestations are not made yet")))
        };
        assert_eq!(notice(None, None, &[]), Ok(None));
        assert_eq!(notice(Some("false"), Some("0"), &[]), Ok(None));
        assert_eq!(notice(Some("true"), None, &[]), none("provenance"));
        assert_eq!(
            notice(Some("mode=max,version=v1"), Some("true"), &[]),
            none("provenance, sbom")
        );
        assert_eq!(notice(Some("disabled=true"), None, &[]), Ok(None));
        assert_eq!(notice(Some("mode=min,inline-only=true"), None, &[]), none("provenance"));
        assert_eq!(notice(None, None, &["type=sbom,generator=docker/scout:1"]), none("sbom"));
        // The long form goes before the short one.
        assert_eq!(notice(Some("true"), None, &["type=provenance,disabled=true"]), Ok(None));
        for (text, part) in [
            ("mode=max", "type= is missing"),
            ("type=vsa", "unknown type"),
            ("type=provenance,mode=most", "expected min or max"),
            ("type=provenance,x", "not key=value"),
            ("type=provenance,mode=min,mode=max", "given twice"),
            ("type=sbom,mode=max", "unknown key mode"),
            ("type=sbom,required=true", "this one is required"),
        ] {
            let message = notice(None, None, &[text]).unwrap_err();
            assert!(message.contains(part), "{text}: {message}");
        }
        let twice = notice(None, None, &["type=sbom", "type=sbom"]).unwrap_err();
        assert!(twice.contains("given twice"), "{twice}");
    }
}
