//! Paths in the code of a module, resolved to modules of the same crate.

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{
    Attribute, ImplItem, Item, ItemUse, Local, Macro, Meta, Path, TraitItem, UseTree, Visibility,
};

use super::tree::{Module, Tree, is_test_only, plain};

/// A path with the line of the first name.
struct Found {
    names: Vec<String>,
    line: usize,
}

/// Modules referred to by a module, with lines, in the order of the code.
pub(super) fn references(tree: &Tree<'_>, module: &Module) -> Vec<(usize, usize)> {
    let mut paths = Paths::default();
    for item in &module.items {
        paths.visit_item(item);
    }
    let scope = Scope::of(tree, module, &paths);
    let mut references: Vec<(usize, usize)> = paths
        .found
        .iter()
        .chain(&paths.globs)
        .filter_map(|path| Some((scope.resolve(&path.names)?, path.line)))
        .collect();
    references.sort_by_key(|(_, line)| *line);
    references
}

/// Names of modules visible in a module.
struct Scope<'a> {
    tree: &'a Tree<'a>,
    own: usize,
    /// Modules with a glob import.
    globs: Vec<usize>,
}

impl<'a> Scope<'a> {
    fn of(tree: &'a Tree<'a>, module: &Module, paths: &Paths) -> Self {
        let own = tree
            .modules
            .iter()
            .position(|other| std::ptr::eq(other, module))
            .expect("the module is in the tree");
        let mut scope = Self {
            tree,
            own,
            globs: Vec::new(),
        };
        let globs = paths.globs.iter();
        scope.globs = globs
            .filter_map(|path| scope.resolve(&path.names))
            .collect();
        scope
    }

    /// Deepest module along a path; none for a path out of the crate.
    fn resolve(&self, names: &[String]) -> Option<usize> {
        let modules = &self.tree.modules;
        let mut rest = names.iter();
        let first = rest.next()?;
        let mut at = match first.as_str() {
            "crate" => 0,
            "self" => self.own,
            "super" => modules[self.own].parent?,
            name => {
                let seen = std::iter::once(&self.own).chain(&self.globs);
                *seen
                    .filter_map(|from| modules[*from].children.get(name))
                    .next()?
            }
        };
        for name in rest {
            at = match (name.as_str(), modules[at].children.get(name)) {
                ("super", _) => modules[at].parent?,
                ("self", _) => at,
                (_, Some(child)) => *child,
                (_, None) => break,
            };
        }
        Some(at)
    }
}

#[derive(Default)]
struct Paths {
    found: Vec<Found>,
    globs: Vec<Found>,
}

impl Paths {
    fn add_use(&mut self, before: &[String], line: usize, tree: &UseTree) {
        let with = |ident| before.iter().cloned().chain([plain(ident)]).collect();
        match tree {
            UseTree::Path(path) => {
                let names: Vec<String> = with(&path.ident);
                self.add_use(&names, path.ident.span().start().line, &path.tree);
            }
            UseTree::Name(name) => self.found.push(Found {
                names: with(&name.ident),
                line: name.ident.span().start().line,
            }),
            UseTree::Rename(rename) => self.found.push(Found {
                names: with(&rename.ident),
                line: rename.ident.span().start().line,
            }),
            UseTree::Glob(_) => self.globs.push(Found {
                names: before.to_vec(),
                line,
            }),
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.add_use(before, line, tree);
                }
            }
        }
    }

    /// Adds paths of two or more names in tokens; with `quoted`, also paths in strings.
    fn add_tokens(&mut self, tokens: TokenStream, quoted: bool) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut at = 0;
        while at < tokens.len() {
            match &tokens[at] {
                TokenTree::Group(group) => self.add_tokens(group.stream(), quoted),
                TokenTree::Literal(text) if quoted => {
                    let line = text.span().start().line;
                    let names = text.to_string();
                    let names = names.trim_matches('"').split("::").map(str::to_owned);
                    self.add_path(names.collect(), line);
                }
                TokenTree::Ident(first) => {
                    let mut names = vec![plain(first)];
                    while let Some(next) = name_after_colons(&tokens[at + 1..]) {
                        names.push(next);
                        at += 3;
                    }
                    self.add_path(names, first.span().start().line);
                }
                _ => {}
            }
            at += 1;
        }
    }

    fn add_path(&mut self, names: Vec<String>, line: usize) {
        if names.len() > 1 {
            self.found.push(Found { names, line });
        }
    }
}

/// The name in `::name` at the start of tokens.
fn name_after_colons(tokens: &[TokenTree]) -> Option<String> {
    match tokens {
        [
            TokenTree::Punct(a),
            TokenTree::Punct(b),
            TokenTree::Ident(name),
            ..,
        ] if a.as_char() == ':' && b.as_char() == ':' => Some(plain(name)),
        _ => None,
    }
}

impl<'ast> Visit<'ast> for Paths {
    fn visit_item(&mut self, item: &'ast Item) {
        if !is_test_only(attributes_of(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_impl_item(&mut self, item: &'ast ImplItem) {
        let attributes: &[Attribute] = match item {
            ImplItem::Const(item) => &item.attrs,
            ImplItem::Fn(item) => &item.attrs,
            ImplItem::Type(item) => &item.attrs,
            ImplItem::Macro(item) => &item.attrs,
            _ => &[],
        };
        if !is_test_only(attributes) {
            visit::visit_impl_item(self, item);
        }
    }

    fn visit_trait_item(&mut self, item: &'ast TraitItem) {
        let attributes: &[Attribute] = match item {
            TraitItem::Const(item) => &item.attrs,
            TraitItem::Fn(item) => &item.attrs,
            TraitItem::Type(item) => &item.attrs,
            TraitItem::Macro(item) => &item.attrs,
            _ => &[],
        };
        if !is_test_only(attributes) {
            visit::visit_trait_item(self, item);
        }
    }

    fn visit_local(&mut self, local: &'ast Local) {
        if !is_test_only(&local.attrs) {
            visit::visit_local(self, local);
        }
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        if item.leading_colon.is_none() {
            self.add_use(&[], 0, &item.tree);
        }
    }

    fn visit_path(&mut self, path: &'ast Path) {
        if path.leading_colon.is_none()
            && let Some(first) = path.segments.first()
        {
            let names = path.segments.iter().map(|segment| plain(&segment.ident));
            self.add_path(names.collect(), first.ident.span().start().line);
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast Macro) {
        self.visit_path(&call.path);
        self.add_tokens(call.tokens.clone(), false);
    }

    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        if let Meta::List(list) = &attribute.meta {
            self.add_tokens(list.tokens.clone(), true);
        }
    }

    fn visit_visibility(&mut self, _: &'ast Visibility) {}
}

fn attributes_of(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Union(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}
