//! The form by columns: of each endpoint the offsets it is owed, written once for all endpoints that are owed the same.
//! Suits endpoints that settle independently of each other, where nearly every event is owed to a set of its own: `n`
//! endpoints with gaps of their own cost `n` lists, and not a set for each event. Pure.
//!
//! `everybody's column? | codes | columns, each: spans: n, own codes? | of each endpoint: a column of its own, or whose`

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{
    bits::{Reader, Writer},
    metadata::{Owed, Run},
    table::{Code, Span, Table},
};

/// Bits of a column's own codes.
const OWN_CODES: u64 = 12;

pub(super) fn write(table: &Table, base: i64, out: &mut Writer) {
    let (everybody, of_endpoints) = columns(table);
    let mut distinct: Vec<&[Span]> = Vec::new();
    let mut index: HashMap<&[Span], usize> = HashMap::new();
    let mut column_of = Vec::with_capacity(of_endpoints.len());
    for column in &of_endpoints {
        let at = *index.entry(column).or_insert(distinct.len());
        if at == distinct.len() {
            distinct.push(column);
        }
        column_of.push(at);
    }
    let all =
        || std::iter::once(&*everybody).filter(|column| !column.is_empty()).chain(distinct.iter().copied());
    let common = Code::fit(all(), base);
    out.bits(u64::from(!everybody.is_empty()), 1);
    common.announce(out);
    if !everybody.is_empty() {
        write_column(&everybody, base, common, out);
    }
    let mut known = 0;
    for column in column_of {
        out.bits(u64::from(column == known), 1);
        if column == known {
            write_column(distinct[column], base, common, out);
            known += 1;
        } else {
            out.bits(column as u64, width(known));
        }
    }
}

pub(super) fn read(hashes: &[u32], base: i64, reader: &mut Reader<'_>) -> Option<Vec<Run>> {
    let has_everybody = reader.bit()?;
    let common = Code::announced(reader)?;
    let everybody = if has_everybody { read_column(base, common, reader)? } else { Vec::new() };
    let mut columns: Vec<(Vec<Span>, Vec<u32>)> = Vec::new();
    for hash in hashes {
        if reader.bit()? {
            columns.push((read_column(base, common, reader)?, vec![*hash]));
        } else {
            let whose = reader.bits(width(columns.len()))?;
            columns.get_mut(usize::try_from(whose).ok()?)?.1.push(*hash);
        }
    }
    Some(rows(&everybody, &columns))
}

/// Everybody's offsets, and those of each endpoint.
fn columns(table: &Table) -> (Vec<Span>, Vec<Vec<Span>>) {
    let mut everybody = Vec::new();
    let mut columns: Vec<Vec<Span>> = vec![Vec::new(); table.hashes.len()];
    let extend = |column: &mut Vec<Span>, span: Span| match column.last_mut() {
        Some(last) if last.last + 1 == span.first => last.last = span.last,
        _ => column.push(span),
    };
    for (span, set) in table.spans.iter().zip(&table.set_of) {
        match &table.sets[*set] {
            None => extend(&mut everybody, *span),
            Some(places) => {
                places.iter().for_each(|place| extend(&mut columns[*place as usize], *span));
            }
        }
    }
    (everybody, columns)
}

fn write_column(column: &[Span], base: i64, common: Code, out: &mut Writer) {
    let own = Code::fit(std::iter::once(column), base);
    let owns = own.cost(column, base) + OWN_CODES < common.cost(column, base);
    out.gamma(column.len() as u64);
    out.bits(u64::from(owns), 1);
    if owns {
        own.announce(out);
    }
    (if owns { own } else { common }).write(column, base, out);
}

fn read_column(base: i64, common: Code, reader: &mut Reader<'_>) -> Option<Vec<Span>> {
    let count = reader.count()?;
    let code = if reader.bit()? { Code::announced(reader)? } else { common };
    code.read(count, base, reader)
}

/// Bits that tell one of so many apart.
fn width(count: usize) -> u32 {
    count.next_power_of_two().trailing_zeros()
}

/// Turns columns into runs: between two offsets where any column begins or ends, all events are owed to the same.
fn rows(everybody: &[Span], columns: &[(Vec<Span>, Vec<u32>)]) -> Vec<Run> {
    let mut turns: BTreeMap<i64, Vec<usize>> = BTreeMap::new();
    let all = std::iter::once(everybody).chain(columns.iter().map(|(column, _)| column.as_slice()));
    for (at, column) in all.enumerate() {
        for span in column {
            turns.entry(span.first).or_default().push(at);
            turns.entry(span.last + 1).or_default().push(at);
        }
    }
    let mut owed: Vec<Run> = Vec::new();
    let mut present: BTreeSet<usize> = BTreeSet::new();
    let mut first = 0;
    for (turn, turning) in turns {
        if !present.is_empty() {
            let to = if present.contains(&0) { Owed::All } else { together(&present, columns) };
            owed.push(Run { first, last: turn - 1, owed: to });
        }
        for at in turning {
            if !present.remove(&at) {
                present.insert(at);
            }
        }
        first = turn;
    }
    owed
}

fn together(present: &BTreeSet<usize>, columns: &[(Vec<Span>, Vec<u32>)]) -> Owed {
    let mut hashes: Vec<u32> = present.iter().flat_map(|at| &columns[at - 1].1).copied().collect();
    hashes.sort_unstable();
    Owed::To(hashes)
}
