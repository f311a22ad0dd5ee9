//! A filter at work: refuses by place and headers before anything is copied, by the rest afterwards.

use std::sync::Arc;

use super::{
    Letter,
    expression::{self, Expression},
    filter::{Filter, Place},
};
use crate::{
    kafka::{
        headers::Glance,
        scan::{Names, Seen},
    },
    pipeline::{Record, decode::Decoder},
};

/// Picks letters.
pub struct Matcher {
    filter: Filter,
    decoder: Arc<Decoder>,
    expression: Option<Expression>,
    names: Names,
    failures: Failures,
}

/// Letters an expression failed on; they do not match.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Failures {
    /// How many.
    pub count: u64,
    /// Where the first is and what it stumbled over.
    pub first: Option<String>,
}

impl Matcher {
    /// Checks the filter's expression; `decoder` finds types and tenants.
    pub fn new(filter: Filter, decoder: Arc<Decoder>) -> Result<Self, expression::Error> {
        let expression = filter.expression.as_deref().map(Expression::new).transpose()?;
        Ok(Self { filter, decoder, expression, names: Names::default(), failures: Failures::default() })
    }

    /// The filter.
    pub fn filter(&self) -> &Filter {
        &self.filter
    }

    /// What the expression failed on so far.
    pub fn failures(&self) -> &Failures {
        &self.failures
    }

    /// The letter in a record, if it is meant.
    pub fn pick(&mut self, seen: &Seen<'_>) -> Option<Letter> {
        let place = Place { partition: seen.partition(), offset: seen.offset(), timestamp: seen.timestamp() };
        if !self.filter.admits_place(place) || !self.filter.admits_headers(&Glance::of(seen.headers())) {
            return None;
        }
        let record = seen.record(&mut self.names);
        self.judge(record)
    }

    /// The rest of the question, for a record whose place and headers are fine.
    fn judge(&mut self, record: Record) -> Option<Letter> {
        let letter = Letter::read(record, &self.decoder);
        let event = &letter.event;
        if !self.filter.admits_facts(&event.event_type, event.tenant.as_deref()) {
            return None;
        }
        let holds = self.expression.as_ref().map(|expression| expression.holds(&letter.subject()));
        match holds {
            None | Some(Ok(true)) => Some(letter),
            Some(Ok(false)) => None,
            Some(Err(why)) => {
                self.failures.add(&letter.record, &why);
                None
            }
        }
    }
}

impl Failures {
    /// Counts a record the expression failed on.
    pub fn add(&mut self, record: &Record, why: &str) {
        self.count += 1;
        let Record { topic, partition, offset, .. } = record;
        self.first.get_or_insert_with(|| format!("{topic}:{partition}:{offset}: {why}"));
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests, *};

    fn picks(filter: Filter, value: &'static str) -> (bool, Failures) {
        let mut matcher = Matcher::new(filter, Arc::new(tests::decoder())).unwrap();
        let picked = matcher.judge(tests::record(&tests::ENVELOPE, value)).is_some();
        (picked, matcher.failures)
    }

    fn asking(expression: &str) -> Filter {
        Filter { expression: Some(expression.to_owned()), ..Filter::default() }
    }

    #[test]
    fn type_tenant_and_expression_are_looked_up_in_the_event() {
        let value = r#"{"type":"order.paid","tenant":"acme","amount":5}"#;
        let types = |pattern: &str| Filter { types: vec![pattern.to_owned()], ..Filter::default() };
        let tenants = |tenant: &str| Filter { tenants: vec![tenant.to_owned()], ..Filter::default() };
        for (filter, expected) in [
            (Filter::default(), true),
            (types("order.*"), true),
            (types("payment.*"), false),
            (tenants("acme"), true),
            (tenants("other"), false),
            (asking("value.amount == 5 && endpoint == 'crm'"), true),
            (asking("value.amount == 6"), false),
        ] {
            assert_eq!(picks(filter.clone(), value), (expected, Failures::default()), "{filter:?}");
        }
    }

    #[test]
    fn an_expression_that_fails_does_not_match_and_is_counted() {
        let (picked, failures) = picks(asking("value.amount == 5"), "{}");
        assert!(!picked);
        assert_eq!(failures.count, 1);
        let first = failures.first.unwrap();
        assert!(first.starts_with("arauto.dead:2:11: ") && first.contains("amount"), "{first}");
    }

    #[test]
    fn a_wrong_expression_is_refused() {
        assert!(Matcher::new(asking("nonsense("), Arc::new(tests::decoder())).is_err());
    }
}
