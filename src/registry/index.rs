//! Index: from an event's topic, tenant and type to the endpoints that want it, without looking at the others.
//!
//! Selectors (a topic or pattern of topics, a tenant, a pattern of types) are numbered, 0 meaning "any". An
//! endpoint stands under every combination of its selectors; an event looks up every combination of the few
//! selectors that match it. Never changes once built.

use std::{
    collections::HashMap,
    ops::Range,
    sync::{Arc, PoisonError, RwLock},
};

use regex::Regex;

use super::pattern::Patterns;
use crate::{
    config::settings::{Endpoint, TopicSelector},
    pipeline::Event,
};

/// The selector that matches everything.
const ANY: u32 = 0;

/// Topic, tenant and type selector.
type Combination = (u32, u32, u32);

#[derive(Debug, Default)]
pub(super) struct Index {
    topics: Topics,
    tenants: HashMap<Box<str>, u32>,
    types: Patterns,
    combinations: HashMap<Combination, Range<u32>>,
    /// Positions of endpoints; those of one combination stand together.
    positions: Vec<u32>,
}

impl Index {
    /// Indexes the enabled ones by their position.
    pub(super) fn new(endpoints: &[Arc<Endpoint>]) -> Self {
        let mut index = Self::default();
        let mut entries: Vec<(Combination, u32)> = Vec::with_capacity(endpoints.len());
        let mut numbers = Numbers(ANY);
        for (position, endpoint) in (0_u32..).zip(endpoints).filter(|(_, endpoint)| endpoint.enabled) {
            let tenant = index.tenant_selector(endpoint, &mut numbers);
            let topics = index.topic_selectors(endpoint, &mut numbers);
            let types = index.type_selectors(endpoint, &mut numbers);
            for topic in topics {
                entries.extend(types.iter().map(|kind| ((topic, tenant, *kind), position)));
            }
        }
        entries.sort_unstable();
        for (at, (combination, position)) in (0_u32..).zip(entries) {
            index.combinations.entry(combination).or_insert(at..at).end = at + 1;
            index.positions.push(position);
        }
        index
    }

    /// The positions of the endpoints that want the event, ascending, each once.
    pub(super) fn find(&self, event: &Event) -> Vec<u32> {
        // Nobody gets notices who did not ask for them by name.
        let mut topics = if event.notice { Vec::new() } else { vec![ANY] };
        self.topics.find(event, &mut topics);
        let mut types = vec![ANY];
        self.types.find(&event.event_type, &mut types);
        let tenant = event.tenant.as_ref().and_then(|tenant| self.tenants.get(&**tenant));
        let mut found = Vec::new();
        for topic in &topics {
            for tenant in tenant.into_iter().chain(&[ANY]) {
                let ranges = types.iter().filter_map(|kind| self.combinations.get(&(*topic, *tenant, *kind)));
                for range in ranges {
                    found.extend_from_slice(&self.positions[range.start as usize..range.end as usize]);
                }
            }
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    fn tenant_selector(&mut self, endpoint: &Endpoint, numbers: &mut Numbers) -> u32 {
        let Some(tenant) = endpoint.tenant.as_deref() else {
            return ANY;
        };
        *self.tenants.entry(tenant.into()).or_insert_with(|| numbers.next())
    }

    fn topic_selectors(&mut self, endpoint: &Endpoint, numbers: &mut Numbers) -> Vec<u32> {
        let Some(topics) = &endpoint.topics else {
            return vec![ANY];
        };
        distinct(topics.iter().map(|topic| self.topics.add(topic, numbers.next())))
    }

    fn type_selectors(&mut self, endpoint: &Endpoint, numbers: &mut Numbers) -> Vec<u32> {
        match &endpoint.types {
            None => vec![ANY],
            Some(types) if types.iter().any(|pattern| pattern == "*") => vec![ANY],
            Some(types) => distinct(types.iter().map(|pattern| self.types.add(pattern, numbers.next()))),
        }
    }
}

/// Gives out numbers; gaps do no harm.
struct Numbers(u32);

impl Numbers {
    fn next(&mut self) -> u32 {
        self.0 += 1;
        self.0
    }
}

fn distinct(numbers: impl Iterator<Item = u32>) -> Vec<u32> {
    let mut numbers: Vec<u32> = numbers.collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

/// Topic selectors. Which patterns match a topic is found out once: topics are few, events are many.
#[derive(Debug, Default)]
struct Topics {
    names: HashMap<Box<str>, u32>,
    patterns: HashMap<Box<str>, (Regex, u32)>,
    seen: RwLock<HashMap<Arc<str>, Arc<[u32]>>>,
}

impl Topics {
    fn add(&mut self, selector: &TopicSelector, next: u32) -> u32 {
        match selector {
            TopicSelector::Name(name) => *self.names.entry(name.as_str().into()).or_insert(next),
            TopicSelector::Pattern(regex, written) => {
                let pattern = self.patterns.entry(written.as_str().into());
                pattern.or_insert_with(|| (regex.clone(), next)).1
            }
        }
    }

    fn find(&self, event: &Event, found: &mut Vec<u32>) {
        let topic = &event.topic;
        found.extend(self.names.get(&**topic));
        if self.patterns.is_empty() || event.notice {
            return;
        }
        let seen = self.seen.read().unwrap_or_else(PoisonError::into_inner).get(topic).cloned();
        found.extend_from_slice(&seen.unwrap_or_else(|| self.match_patterns(topic)));
    }

    fn match_patterns(&self, topic: &Arc<str>) -> Arc<[u32]> {
        let matching = self.patterns.values().filter(|(regex, _)| regex.is_match(topic));
        let numbers: Arc<[u32]> = matching.map(|(_, number)| *number).collect();
        let mut seen = self.seen.write().unwrap_or_else(PoisonError::into_inner);
        seen.insert(Arc::clone(topic), Arc::clone(&numbers));
        numbers
    }
}
