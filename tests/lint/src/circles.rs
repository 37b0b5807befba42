//! Import circles: modules of a crate with references to each other around a ring.
//!
//! A reference is a path in code: in a `use`, an expression, a type, a macro call or an attribute.
//! References between a module and an ancestor or descendant do not count, code under
//! `#[cfg(test)]` neither. Each of `src/lib.rs`, `src/main.rs` and the programs in `src/bin` is a
//! tree of modules.

mod components;
mod paths;
mod tree;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use crate::{Crate, LintError};
use tree::Tree;

/// An arrow from one module to another, with the place of the first reference.
#[derive(Debug, Clone)]
pub struct Arrow {
    /// Module with the reference.
    pub from: String,
    /// Module referred to.
    pub to: String,
    /// File of the reference, relative to the workspace.
    pub path: PathBuf,
    /// Line of the reference, counted from 1.
    pub line: usize,
}

/// A strongly connected group of two or more modules.
#[derive(Debug, Clone)]
pub struct Circle {
    /// Modules in alphabetical order.
    pub members: Vec<String>,
    /// A shortest ring within the group; the last arrow ends at the start of the first.
    pub example: Vec<Arrow>,
}

impl fmt::Display for Circle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (count, members) = (self.members.len(), self.members.join(", "));
        write!(f, "{count} modules in a circle: {members}")?;
        for Arrow {
            from,
            to,
            path,
            line,
        } in &self.example
        {
            write!(f, "\n    {from} -> {to} at {}:{line}", path.display())?;
        }
        Ok(())
    }
}

/// Number of modules and of arrows between modules of a crate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Arrows {
    /// Modules, roots included.
    pub modules: usize,
    /// Pairs of modules with a reference, in one direction.
    pub edges: usize,
    /// Pairs among `edges` of a module and an ancestor or descendant, not followed for circles.
    pub kin: usize,
}

/// Modules of a crate, with arrows and circles.
#[derive(Debug, Clone)]
pub struct CrateCircles {
    /// Package name.
    pub name: String,
    /// Numbers of modules and arrows.
    pub arrows: Arrows,
    /// Circles, largest first.
    pub circles: Vec<Circle>,
}

impl CrateCircles {
    /// Follows the imports of a crate. With a `depth`, modules below that depth count as part of
    /// the ancestor there: depth 1 shows circles between folders.
    pub fn of(krate: &Crate, depth: Option<usize>) -> Result<Self, LintError> {
        let mut all = Self {
            name: krate.name.clone(),
            arrows: Arrows::default(),
            circles: Vec::new(),
        };
        for tree in Tree::all(krate)? {
            all.add(&Graph::of(&tree, depth));
        }
        all.circles.sort_by_key(|circle| {
            let size = circle.members.len();
            (std::cmp::Reverse(size), circle.members.clone())
        });
        Ok(all)
    }

    fn add(&mut self, graph: &Graph) {
        self.arrows.modules += graph.nodes.len();
        self.arrows.edges += graph.edges;
        self.arrows.kin += graph.kin;
        let next: Vec<Vec<usize>> = graph
            .arrows
            .iter()
            .map(|arrows| arrows.keys().copied().collect())
            .collect();
        for group in components::strong(&next) {
            let ring = components::shortest_ring(&next, &group);
            let ends = ring.iter().zip(ring.iter().cycle().skip(1));
            let mut members: Vec<String> = group
                .iter()
                .map(|node| graph.nodes[*node].clone())
                .collect();
            members.sort();
            self.circles.push(Circle {
                members,
                example: ends.map(|(from, to)| graph.arrow(*from, *to)).collect(),
            });
        }
    }
}

/// Modules of a tree down to a depth; arrows between kin are counted and left out.
struct Graph {
    nodes: Vec<String>,
    arrows: Vec<BTreeMap<usize, (PathBuf, usize)>>,
    edges: usize,
    kin: usize,
}

impl Graph {
    fn of(tree: &Tree<'_>, depth: Option<usize>) -> Self {
        let depth = depth.unwrap_or(usize::MAX);
        let mut known: BTreeMap<&[String], usize> = BTreeMap::new();
        let mut paths: Vec<&[String]> = Vec::new();
        let places: Vec<usize> = tree
            .modules
            .iter()
            .map(|module| {
                let path = &module.path[..module.path.len().min(depth)];
                *known.entry(path).or_insert_with(|| {
                    paths.push(path);
                    paths.len() - 1
                })
            })
            .collect();
        let mut arrows: Vec<BTreeMap<usize, (PathBuf, usize)>> = vec![BTreeMap::new(); paths.len()];
        for (module, from) in tree.modules.iter().zip(&places) {
            for (to, line) in paths::references(tree, module) {
                if places[to] != *from {
                    arrows[*from]
                        .entry(places[to])
                        .or_insert_with(|| (module.file.clone(), line));
                }
            }
        }
        let edges = arrows.iter().map(BTreeMap::len).sum();
        for (from, arrows) in arrows.iter_mut().enumerate() {
            let path = paths[from];
            arrows.retain(|to, _| !path.starts_with(paths[*to]) && !paths[*to].starts_with(path));
        }
        let across: usize = arrows.iter().map(BTreeMap::len).sum();
        Self {
            nodes: paths.iter().map(|path| tree.name(path)).collect(),
            arrows,
            edges,
            kin: edges - across,
        }
    }

    fn arrow(&self, from: usize, to: usize) -> Arrow {
        let (path, line) = &self.arrows[from][&to];
        Arrow {
            from: self.nodes[from].clone(),
            to: self.nodes[to].clone(),
            path: path.clone(),
            line: *line,
        }
    }
}
