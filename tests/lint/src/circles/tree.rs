//! The modules of a crate, read from `mod` declarations.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use syn::{Attribute, Expr, Item, ItemMod, Lit, Meta};

use crate::{Crate, LintError, Source};

/// A module with the items of the module's own level.
pub(super) struct Module {
    /// Names from the root to the module; empty for the root.
    pub(super) path: Vec<String>,
    pub(super) file: PathBuf,
    pub(super) parent: Option<usize>,
    pub(super) children: BTreeMap<String, usize>,
    pub(super) items: Vec<Item>,
}

/// Modules below one root file; the root is the first.
pub(super) struct Tree<'a> {
    /// Name of the program for roots other than the library.
    program: Option<String>,
    files: BTreeMap<&'a Path, &'a Source>,
    pub(super) modules: Vec<Module>,
}

/// Folders for the files of child modules.
struct Folders {
    /// Folder for `mod name;`.
    children: PathBuf,
    /// Folder for `#[path]`.
    attribute: PathBuf,
}

impl<'a> Tree<'a> {
    /// Trees of all roots under `src` of a crate.
    pub(super) fn all(krate: &'a Crate) -> Result<Vec<Self>, LintError> {
        let src = krate.dir.join("src");
        let mut trees = Vec::new();
        for file in &krate.files {
            let Some(program) = program_of(&src, &file.path) else {
                continue;
            };
            let files = krate.files.iter();
            let mut tree = Self {
                program,
                files: files.map(|file| (file.path.as_path(), file)).collect(),
                modules: Vec::new(),
            };
            tree.add_file(Vec::new(), None, &file.path, &folder_of(&file.path))?;
            trees.push(tree);
        }
        Ok(trees)
    }

    /// Name of a module for people: `a::b`, `crate` for the root, `(main)::a` in a program.
    pub(super) fn name(&self, path: &[String]) -> String {
        let program = self.program.iter().map(|name| format!("({name})"));
        let parts: Vec<String> = program.chain(path.iter().cloned()).collect();
        if parts.is_empty() {
            "crate".to_owned()
        } else {
            parts.join("::")
        }
    }

    fn add_file(
        &mut self,
        path: Vec<String>,
        parent: Option<usize>,
        file: &Path,
        children: &Path,
    ) -> Result<(), LintError> {
        let parsed = syn::parse_file(&self.files[file].text);
        let parsed = parsed.map_err(|error| LintError::Unparsable {
            path: file.to_owned(),
            line: error.span().start().line,
            message: error.to_string(),
        })?;
        if is_test_only(&parsed.attrs) {
            return Ok(());
        }
        let folders = Folders {
            children: children.to_owned(),
            attribute: folder_of(file),
        };
        self.add(path, parent, file, &folders, parsed.items)
    }

    fn add(
        &mut self,
        path: Vec<String>,
        parent: Option<usize>,
        file: &Path,
        folders: &Folders,
        items: Vec<Item>,
    ) -> Result<(), LintError> {
        let own = self.modules.len();
        if let (Some(parent), Some(name)) = (parent, path.last()) {
            self.modules[parent].children.insert(name.clone(), own);
        }
        let (inner, items): (Vec<Item>, Vec<Item>) = items
            .into_iter()
            .partition(|item| matches!(item, Item::Mod(_)));
        self.modules.push(Module {
            path: path.clone(),
            file: file.to_owned(),
            parent,
            children: BTreeMap::new(),
            items,
        });
        for item in inner {
            if let Item::Mod(module) = item
                && !is_test_only(&module.attrs)
            {
                self.add_child(own, &path, file, folders, module)?;
            }
        }
        Ok(())
    }

    fn add_child(
        &mut self,
        parent: usize,
        above: &[String],
        file: &Path,
        folders: &Folders,
        module: ItemMod,
    ) -> Result<(), LintError> {
        let name = plain(&module.ident);
        let path: Vec<String> = above.iter().chain([&name]).cloned().collect();
        let children = folders.children.join(&name);
        if let Some((_, items)) = module.content {
            let folders = Folders {
                attribute: children.clone(),
                children,
            };
            return self.add(path, Some(parent), file, &folders, items);
        }
        if let Some(given) = path_attribute(&module.attrs) {
            let given = folders.attribute.join(given);
            if self.files.contains_key(given.as_path()) {
                let folder = folder_of(&given);
                return self.add_file(path, Some(parent), &given, &folder);
            }
        }
        let candidates = [children.with_extension("rs"), children.join("mod.rs")];
        let found = candidates
            .iter()
            .find(|path| self.files.contains_key(path.as_path()));
        let found = found.ok_or_else(|| LintError::NoModuleFile {
            path: file.to_owned(),
            line: module.ident.span().start().line,
            module: name,
        })?;
        self.add_file(path, Some(parent), found, &children)
    }
}

/// Program of a root file under `src`: none within for the library; none at all for other files.
fn program_of(src: &Path, file: &Path) -> Option<Option<String>> {
    let below = file.strip_prefix(src).ok()?;
    let parts: Vec<&str> = below.iter().filter_map(|part| part.to_str()).collect();
    match parts.as_slice() {
        ["lib.rs"] => Some(None),
        ["main.rs"] => Some(Some("main".to_owned())),
        ["bin", name] => Some(Some(name.trim_end_matches(".rs").to_owned())),
        ["bin", name, "main.rs"] => Some(Some((*name).to_owned())),
        _ => None,
    }
}

fn folder_of(file: &Path) -> PathBuf {
    file.parent().unwrap_or(Path::new("")).to_owned()
}

/// Name without the mark of raw identifiers.
pub(super) fn plain(ident: &proc_macro2::Ident) -> String {
    let name = ident.to_string();
    name.strip_prefix("r#").unwrap_or(&name).to_owned()
}

/// Recognizes `#[test]`, `#[cfg(test)]` and `#[cfg(all(test, …))]`.
pub(super) fn is_test_only(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        Meta::Path(path) => path.is_ident("test"),
        Meta::List(list) if list.path.is_ident("cfg") => {
            let text = list.tokens.to_string().replace(' ', "");
            let all = text
                .strip_prefix("all(")
                .and_then(|rest| rest.strip_suffix(')'));
            all.unwrap_or(&text).split(',').any(|part| part == "test")
        }
        _ => false,
    })
}

fn path_attribute(attributes: &[Attribute]) -> Option<String> {
    attributes.iter().find_map(|attribute| {
        let Meta::NameValue(pair) = &attribute.meta else {
            return None;
        };
        match &pair.value {
            Expr::Lit(lit) if pair.path.is_ident("path") => match &lit.lit {
                Lit::Str(text) => Some(text.value()),
                _ => None,
            },
            _ => None,
        }
    })
}
