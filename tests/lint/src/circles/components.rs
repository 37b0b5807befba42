//! Strongly connected components of a graph, after Tarjan.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Groups of two or more nodes, each reachable from each within the group.
pub(super) fn strong(next: &[Vec<usize>]) -> Vec<Vec<usize>> {
    let mut search = Search {
        next,
        index: vec![None; next.len()],
        low: vec![0; next.len()],
        stack: Vec::new(),
        seen: 0,
        groups: Vec::new(),
    };
    for node in 0..next.len() {
        if search.index[node].is_none() {
            search.visit(node);
        }
    }
    search.groups.retain(|group| group.len() > 1);
    search.groups
}

struct Search<'a> {
    next: &'a [Vec<usize>],
    index: Vec<Option<usize>>,
    low: Vec<usize>,
    stack: Vec<usize>,
    seen: usize,
    groups: Vec<Vec<usize>>,
}

impl Search<'_> {
    fn visit(&mut self, node: usize) {
        let index = self.seen;
        self.seen += 1;
        self.index[node] = Some(index);
        self.low[node] = index;
        self.stack.push(node);
        for &to in self.next[node].iter() {
            match self.index[to] {
                None => {
                    self.visit(to);
                    self.low[node] = self.low[node].min(self.low[to]);
                }
                Some(index) if self.stack.contains(&to) => {
                    self.low[node] = self.low[node].min(index);
                }
                Some(_) => {}
            }
        }
        if self.low[node] == index {
            let start = self.stack.iter().position(|on| *on == node);
            let mut group = self
                .stack
                .split_off(start.expect("the node is on the stack"));
            group.sort_unstable();
            self.groups.push(group);
        }
    }
}

/// Nodes of a shortest ring within a strongly connected group.
pub(super) fn shortest_ring(next: &[Vec<usize>], group: &[usize]) -> Vec<usize> {
    let members: BTreeSet<usize> = group.iter().copied().collect();
    let rings = group
        .iter()
        .filter_map(|start| ring_from(next, &members, *start));
    rings.min_by_key(Vec::len).unwrap_or_default()
}

/// Breadth-first search from a node back to the same node.
fn ring_from(next: &[Vec<usize>], members: &BTreeSet<usize>, start: usize) -> Option<Vec<usize>> {
    let mut came_from: BTreeMap<usize, usize> = BTreeMap::new();
    let mut waiting = VecDeque::from([start]);
    while let Some(node) = waiting.pop_front() {
        for &to in next[node].iter().filter(|to| members.contains(to)) {
            if to == start {
                let back = std::iter::successors(Some(node), |node| came_from.get(node).copied());
                let mut ring: Vec<usize> = back.collect();
                ring.reverse();
                return Some(ring);
            }
            if let std::collections::btree_map::Entry::Vacant(entry) = came_from.entry(to) {
                entry.insert(node);
                waiting.push_back(to);
            }
        }
    }
    None
}
