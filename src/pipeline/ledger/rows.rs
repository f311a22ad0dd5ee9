//! The form by rows: runs of offsets, each with the set it is owed to. Suits events that are owed to few different
//! sets, whatever is in them: everybody, the tenants' endpoints, those of one event type. Pure.
//!
//! `sets: n, code, each: spans in the dictionary (none: everybody) | runs: n, codes, each: gap, length − 1, set`

use super::{
    bits::{Reader, Rice, Writer},
    metadata::{Owed, Run},
    table::{Code, Span, Table},
};

pub(super) fn write(table: &Table, base: i64, out: &mut Writer) {
    let sets: Vec<Vec<Span>> =
        table.sets.iter().map(|set| spans(set.as_deref().unwrap_or_default())).collect();
    let of_sets = Code::fit(sets.iter().map(Vec::as_slice), 0);
    out.gamma(sets.len() as u64);
    of_sets.announce(out);
    for set in &sets {
        out.gamma(set.len() as u64);
        of_sets.write(set, 0, out);
    }
    let gaps = table.spans.iter().scan(base, |next, span| {
        let gap = span.first.abs_diff(*next);
        *next = span.last + 1;
        Some(gap)
    });
    let lengths = table.spans.iter().map(|span| span.last.abs_diff(span.first));
    let set_of = table.set_of.iter().map(|set| *set as u64);
    let codes = [Rice::fit(&gaps), Rice::fit(&lengths), Rice::fit(&set_of)];
    out.gamma(table.spans.len() as u64);
    codes.iter().for_each(|code| code.announce(out));
    for ((gap, length), set) in gaps.zip(lengths).zip(set_of) {
        codes[0].write(gap, out);
        codes[1].write(length, out);
        codes[2].write(set, out);
    }
}

pub(super) fn read(hashes: &[u32], base: i64, reader: &mut Reader<'_>) -> Option<Vec<Run>> {
    let count = reader.count()?;
    let of_sets = Code::announced(reader)?;
    let mut sets = Vec::with_capacity(count);
    for _ in 0..count {
        let spans = reader.count()?;
        let spans = of_sets.read(spans, 0, reader)?;
        sets.push(set(&spans, hashes)?);
    }
    let count = reader.count()?;
    let codes = [Rice::announced(reader)?, Rice::announced(reader)?, Rice::announced(reader)?];
    let mut owed = Vec::with_capacity(count);
    let mut next = base;
    for _ in 0..count {
        let first = next.checked_add(i64::try_from(codes[0].read(reader)?).ok()?)?;
        let last = first.checked_add(i64::try_from(codes[1].read(reader)?).ok()?)?;
        let set = sets.get(usize::try_from(codes[2].read(reader)?).ok()?)?;
        owed.push(Run { first, last, owed: set.clone() });
        next = last.checked_add(1)?;
    }
    Some(owed)
}

/// Ascending numbers as spans.
fn spans(numbers: &[u32]) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    for number in numbers.iter().map(|number| i64::from(*number)) {
        match spans.last_mut() {
            Some(span) if span.last + 1 == number => span.last = number,
            _ => spans.push(Span { first: number, last: number }),
        }
    }
    spans
}

fn set(spans: &[Span], hashes: &[u32]) -> Option<Owed> {
    if spans.is_empty() {
        return Some(Owed::All);
    }
    let mut members = Vec::new();
    for span in spans {
        let (first, last) = (usize::try_from(span.first).ok()?, usize::try_from(span.last).ok()?);
        members.extend_from_slice(hashes.get(first..=last)?);
    }
    Some(Owed::To(members))
}
