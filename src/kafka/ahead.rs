//! What was taken out of a partition's queue before its turn came, within what all partitions may take together. Pure.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

/// Bytes that all partitions of a client may take together; what is taken goes back when its turn comes.
#[derive(Debug, Clone)]
pub(super) struct Budget(Arc<AtomicUsize>);

impl Budget {
    /// So many bytes.
    pub(super) fn new(bytes: usize) -> Self {
        Self(Arc::new(AtomicUsize::new(bytes)))
    }
}

/// One partition's items, each with its size, in their order.
#[derive(Debug)]
pub(super) struct Ahead<T> {
    items: VecDeque<(T, usize)>,
    budget: Budget,
}

impl<T> Ahead<T> {
    /// Nothing yet.
    pub(super) fn new(budget: Budget) -> Self {
        Self { items: VecDeque::new(), budget }
    }

    /// Is there anything left of the budget? Who comes with the last byte of it may take an item of any size.
    pub(super) fn has_room(&self) -> bool {
        self.budget.0.load(Ordering::Relaxed) > 0
    }

    /// How many there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    /// The last one that was taken.
    pub(super) fn last(&self) -> Option<&T> {
        self.items.back().map(|(item, _)| item)
    }

    /// Adds one; all of its size is taken from the budget, as far as it goes.
    pub(super) fn push(&mut self, item: T, size: usize) {
        let take = |left: usize| Some(left.saturating_sub(size));
        let left = self.budget.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).unwrap_or_default();
        self.items.push_back((item, size.min(left)));
    }

    /// The one whose turn it is.
    pub(super) fn pop(&mut self) -> Option<T> {
        let (item, taken) = self.items.pop_front()?;
        self.budget.0.fetch_add(taken, Ordering::Relaxed);
        Some(item)
    }

    /// Forgets all of them.
    pub(super) fn clear(&mut self) {
        while self.pop().is_some() {}
    }
}

impl<T> Drop for Ahead<T> {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_partitions_together_take_what_there_is_and_give_it_back() {
        let budget = Budget::new(10);
        let (mut one, mut other) = (Ahead::new(budget.clone()), Ahead::new(budget.clone()));
        one.push('a', 4);
        assert!(other.has_room());
        other.push('b', 100);
        assert!(!one.has_room() && !other.has_room(), "the last byte takes an item of any size");
        one.push('c', 1);
        assert_eq!((one.pop(), one.last(), one.has_room()), (Some('a'), Some(&'c'), true));
        assert_eq!((one.pop(), one.pop(), one.last()), (Some('c'), None, None));
        drop(other);
        drop(one);
        assert_eq!(budget.0.load(Ordering::Relaxed), 10);
    }

    #[test]
    fn what_is_forgotten_goes_back() {
        let budget = Budget::new(10);
        let mut one = Ahead::new(budget.clone());
        ('a'..'d').for_each(|item| one.push(item, 3));
        one.clear();
        assert_eq!((one.pop(), budget.0.load(Ordering::Relaxed)), (None, 10));
    }
}
