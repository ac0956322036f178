//! The index from topics to routes: a trie over segments, so that a lookup costs the topic's length and its matches,
//! not the number of routes.

use astrid_capsule::{Pattern, Topic};

use crate::QuickMap;

/// Finds what matches a topic.
pub struct Index<R> {
    root: Node<R>,
}

struct Node<R> {
    next: QuickMap<String, Node<R>>,
    /// An inner `*`.
    any: Option<Box<Node<R>>>,
    /// Patterns that end here.
    here: Vec<(Pattern, R)>,
    /// Patterns that end in a trailing `*` after this.
    below: Vec<(Pattern, R)>,
}

impl<R> Default for Node<R> {
    fn default() -> Self {
        Self { next: QuickMap::default(), any: None, here: Vec::new(), below: Vec::new() }
    }
}

impl<R> Default for Index<R> {
    fn default() -> Self {
        Self { root: Node::default() }
    }
}

impl<R> Index<R> {
    pub fn new(routes: impl IntoIterator<Item = (Pattern, R)>) -> Self {
        let mut index = Self::default();
        for (pattern, route) in routes {
            index.insert(pattern, route);
        }
        index
    }

    /// Adds a route; others of the same pattern stay.
    pub fn insert(&mut self, pattern: Pattern, route: R) {
        let mut node = &mut self.root;
        let mut segments = pattern.segments().peekable();
        let trailing = loop {
            match segments.next() {
                None => break false,
                Some("*") if segments.peek().is_none() => break true,
                Some("*") => node = node.any.get_or_insert_default(),
                Some(literal) => node = node.next.entry(literal.to_owned()).or_default(),
            }
        };
        drop(segments);
        let list = if trailing { &mut node.below } else { &mut node.here };
        list.push((pattern, route));
    }

    /// Takes away the routes of this pattern for which `gone` holds, and every node that is empty then.
    pub fn remove(&mut self, pattern: &Pattern, gone: impl Fn(&R) -> bool) {
        self.root.remove(&pattern.segments().collect::<Vec<_>>(), &gone);
    }

    pub fn is_empty(&self) -> bool {
        self.root.is_empty()
    }

    /// Every route whose pattern matches, in no particular order.
    pub fn matches(&self, topic: &Topic) -> Vec<&R> {
        let mut found = Vec::new();
        self.root.collect(topic.segments(), &mut |_, route| found.push(route));
        found
    }

    /// The route whose pattern matches best ([`Pattern::specificity`]).
    pub fn best(&self, topic: &Topic) -> Option<&R> {
        let mut best: Option<(&Pattern, &R)> = None;
        self.root.collect(topic.segments(), &mut |pattern, route| {
            if best.is_none_or(|(other, _)| pattern.specificity() > other.specificity()) {
                best = Some((pattern, route));
            }
        });
        best.map(|(_, route)| route)
    }
}

impl<R> Node<R> {
    fn is_empty(&self) -> bool {
        self.next.is_empty() && self.any.is_none() && self.here.is_empty() && self.below.is_empty()
    }

    fn remove(&mut self, segments: &[&str], gone: &impl Fn(&R) -> bool) {
        match segments {
            [] => self.here.retain(|(_, route)| !gone(route)),
            ["*"] => self.below.retain(|(_, route)| !gone(route)),
            ["*", rest @ ..] => {
                let Some(node) = &mut self.any else { return };
                node.remove(rest, gone);
                self.any.take_if(|node| node.is_empty());
            }
            [literal, rest @ ..] => {
                let Some(node) = self.next.get_mut(*literal) else { return };
                node.remove(rest, gone);
                if node.is_empty() {
                    self.next.remove(*literal);
                }
            }
        }
    }

    fn collect<'a, 't>(
        &'a self,
        mut rest: impl Iterator<Item = &'t str> + Clone,
        found: &mut impl FnMut(&'a Pattern, &'a R),
    ) {
        let Some(first) = rest.next() else {
            return self.here.iter().for_each(|(p, r)| found(p, r));
        };
        self.below.iter().for_each(|(p, r)| found(p, r));
        if let Some(node) = self.next.get(first) {
            node.collect(rest.clone(), found);
        }
        if let Some(node) = &self.any {
            node.collect(rest, found);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn index(patterns: &[&str]) -> Index<String> {
        Index::new(patterns.iter().map(|p| (Pattern::parse(p).unwrap(), (*p).to_owned())))
    }

    #[test]
    fn a_request_goes_to_the_longest_literal_beginning() {
        let index = index(&["*", "a.*", "a.*.c", "a.b.*", "a.b.c"]);
        for (topic, best) in
            [("a.b.c", "a.b.c"), ("a.x.c", "a.*.c"), ("a.b.x", "a.b.*"), ("a.x", "a.*"), ("x", "*"), ("a", "*")]
        {
            assert_eq!(index.best(&Topic::parse(topic).unwrap()).unwrap(), best, "{topic}");
        }
    }

    proptest! {
        #[test]
        fn the_index_finds_exactly_what_the_matcher_matches(
            patterns in prop::collection::vec(prop::collection::vec(prop::sample::select(vec!["a", "b", "*"]), 1..5), 0..12),
            topic in prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 1..5),
        ) {
            let patterns: Vec<String> = patterns.iter().map(|p| p.join(".")).collect();
            let topic = Topic::parse(&topic.join(".")).unwrap();
            let index = index(&patterns.iter().map(String::as_str).collect::<Vec<_>>());
            let mut found: Vec<&String> = index.matches(&topic);
            let mut expected: Vec<&String> =
                patterns.iter().filter(|p| Pattern::parse(p).unwrap().matches(&topic)).collect();
            found.sort();
            expected.sort();
            prop_assert_eq!(&found, &expected);
            // What is taken away is gone, and the rest is as if it had never been there.
            let mut less = Index::new(patterns.iter().enumerate().map(|(n, p)| (Pattern::parse(p).unwrap(), n)));
            for (n, pattern) in patterns.iter().enumerate().filter(|(n, _)| n % 2 == 0) {
                less.remove(&Pattern::parse(pattern).unwrap(), |route| *route == n);
            }
            let mut left: Vec<usize> = less.matches(&topic).into_iter().copied().collect();
            left.sort();
            let matching = |n: &usize| Pattern::parse(&patterns[*n]).unwrap().matches(&topic);
            prop_assert_eq!(left, (0..patterns.len()).filter(|n| n % 2 == 1).filter(matching).collect::<Vec<_>>());
            for (n, pattern) in patterns.iter().enumerate() {
                less.remove(&Pattern::parse(pattern).unwrap(), |route| *route == n);
            }
            prop_assert!(less.is_empty());
            let best = index.best(&topic).map(|p| Pattern::parse(p).unwrap().specificity());
            prop_assert_eq!(best, expected.iter().map(|p| Pattern::parse(p).unwrap().specificity()).max());
        }
    }
}
