//! The certificate a receiver shows: whose it is, who says so, and until when.
//!
//! Only reads; whether it is to be trusted is for the verifier. What is unreadable is no certificate.

use x509_parser::{
    certificate::X509Certificate, extensions::GeneralName, prelude::FromDer as _, x509::X509Name,
};

use super::printable;

/// What a certificate says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The subject: its common name, or all of it.
    pub subject: String,
    /// The issuer: its common name, or all of it.
    pub issuer: String,
    /// The host names it is for; with a leading `*.` for all one level below.
    pub names: Vec<String>,
    /// Valid from, unix milliseconds.
    pub not_before: i64,
    /// Valid until, unix milliseconds.
    pub not_after: i64,
}

impl Certificate {
    /// Reads one in DER.
    pub fn parse(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let names = certificate.subject_alternative_name().ok().flatten();
        let names = names.map(|names| &*names.value.general_names).unwrap_or_default();
        let validity = certificate.validity();
        Some(Self {
            subject: called(certificate.subject()),
            issuer: called(certificate.issuer()),
            names: names.iter().filter_map(host).map(printable).collect(),
            not_before: validity.not_before.timestamp().saturating_mul(1000),
            not_after: validity.not_after.timestamp().saturating_mul(1000),
        })
    }

    /// Milliseconds until it ends; below zero when it has.
    pub fn remaining(&self, now_ms: i64) -> i64 {
        self.not_after.saturating_sub(now_ms)
    }
}

fn called(name: &X509Name<'_>) -> String {
    let common = name.iter_common_name().next().and_then(|name| name.as_str().ok());
    printable(&common.map_or_else(|| name.to_string(), str::to_owned))
}

fn host<'n>(name: &GeneralName<'n>) -> Option<&'n str> {
    match name {
        GeneralName::DNSName(name) => Some(name),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, date_time_ymd};

    use super::*;

    fn made(common_name: Option<&str>, names: &[&str]) -> Vec<u8> {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_before = date_time_ymd(2024, 2, 29);
        params.not_after = date_time_ymd(2026, 3, 1);
        params.distinguished_name.remove(DnType::CommonName);
        if let Some(name) = common_name {
            params.distinguished_name.push(DnType::CommonName, name);
        } else {
            params.distinguished_name.push(DnType::OrganizationName, "Shop");
        }
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn what_it_says_is_read() {
        let names = ["crm.example.com", "*.example.com", "192.0.2.1"];
        let rows = [(Some("crm"), "crm"), (Some("a\u{1b}[31m"), "a [31m"), (None, "O=Shop")];
        for (common_name, subject) in rows {
            let read = Certificate::parse(&made(common_name, &names)).unwrap();
            let expected = Certificate {
                subject: subject.to_owned(),
                issuer: subject.to_owned(),
                names: names[..2].iter().map(|&name| name.to_owned()).collect(),
                not_before: 1_709_164_800_000,
                not_after: 1_772_323_200_000,
            };
            assert_eq!(read, expected);
            assert_eq!((read.remaining(1_772_323_199_000), read.remaining(1_772_323_201_000)), (1000, -1000));
        }
    }

    #[test]
    fn what_is_none_is_not_read() {
        let whole = made(Some("crm"), &[]);
        for der in [&[][..], b"hello", &whole[..whole.len() - 1]] {
            assert_eq!(Certificate::parse(der), None);
        }
        assert_eq!(Certificate::parse(&whole).unwrap().names, Vec::<String>::new());
    }
}
