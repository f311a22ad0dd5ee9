//! Which variables an expression asks for: the names that nothing in it binds.

use std::collections::BTreeSet;

use cel::{
    IdedExpr,
    common::ast::{EntryExpr, Expr, IdedEntryExpr},
};

/// The free names of an expression.
pub(super) fn free(expression: &IdedExpr) -> BTreeSet<&str> {
    let mut found = BTreeSet::new();
    walk(expression, &mut Vec::new(), &mut found);
    found
}

fn walk<'e>(expression: &'e IdedExpr, bound: &mut Vec<&'e str>, found: &mut BTreeSet<&'e str>) {
    match &expression.expr {
        Expr::Unspecified | Expr::Literal(_) => {}
        Expr::Ident(name) => {
            if !bound.contains(&name.as_str()) {
                found.insert(name);
            }
        }
        Expr::Select(select) => walk(&select.operand, bound, found),
        Expr::Call(call) => {
            for part in call.target.as_deref().into_iter().chain(&call.args) {
                walk(part, bound, found);
            }
        }
        Expr::List(list) => list.elements.iter().for_each(|element| walk(element, bound, found)),
        Expr::Map(map) => entries(&map.entries, bound, found),
        Expr::Struct(made) => entries(&made.entries, bound, found),
        Expr::Comprehension(over) => {
            walk(&over.iter_range, bound, found);
            walk(&over.accu_init, bound, found);
            let outer = bound.len();
            bound.extend([over.iter_var.as_str(), over.accu_var.as_str()]);
            bound.extend(over.iter_var2.as_deref());
            for part in [&over.loop_cond, &over.loop_step, &over.result] {
                walk(part, bound, found);
            }
            bound.truncate(outer);
        }
    }
}

fn entries<'e>(entries: &'e [IdedEntryExpr], bound: &mut Vec<&'e str>, found: &mut BTreeSet<&'e str>) {
    for entry in entries {
        match &entry.expr {
            EntryExpr::StructField(field) => walk(&field.value, bound, found),
            EntryExpr::MapEntry(entry) => {
                walk(&entry.key, bound, found);
                walk(&entry.value, bound, found);
            }
        }
    }
}
