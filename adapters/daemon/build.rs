//! Builds the runner and embeds the binary in the program, which copies it to every VM: a single
//! static file, so that a VM needs no other installation.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    let manifest_dir = PathBuf::from(var("CARGO_MANIFEST_DIR"));
    let runner = manifest_dir.join("../runner");
    for path in ["src", "Cargo.toml"] {
        println!("cargo::rerun-if-changed={}", runner.join(path).display());
    }
    for dependency in ["../secret/src", "../units/src"] {
        println!("cargo::rerun-if-changed={dependency}");
    }
    println!("cargo::rerun-if-changed=../../Cargo.lock");
    println!("cargo::rerun-if-env-changed=LONGSHORE_RUNNER");
    let binary = match env::var_os("LONGSHORE_RUNNER") {
        Some(prebuilt) => PathBuf::from(prebuilt),
        None => build(&runner),
    };
    assert!(
        binary.is_file(),
        "the runner binary does not exist: {}",
        binary.display()
    );
    println!(
        "cargo::rustc-env=LONGSHORE_RUNNER_FILE={}",
        binary.display()
    );
}

/// Builds the runner in a separate target directory, shared by all profiles, since the outer build
/// holds the lock of its own target directory.
fn build(runner: &Path) -> PathBuf {
    let target = var("TARGET");
    let out_dir = PathBuf::from(var("OUT_DIR"));
    // <target>/<profile>/build/<package>/out, with or without a triple before the profile.
    let target_dir = out_dir
        .ancestors()
        .find(|dir| dir.file_name().is_some_and(|name| name == "build"))
        .and_then(|build| build.parent()?.parent())
        .unwrap_or(&out_dir)
        .join("runner-for-vms");
    let mut cargo = Command::new(var("CARGO"));
    cargo
        .args(["build", "--profile", "runner", "--bin", "longshore-runner"])
        .arg("--manifest-path")
        .arg(runner.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&target_dir)
        .args(["--target", &target]);
    // Variables that cargo set for the outer build do not apply to the inner build.
    for (name, _) in env::vars_os() {
        let name_text = name.to_string_lossy();
        let inner = [
            "CARGO_ENCODED_RUSTFLAGS",
            "RUSTC",
            "RUSTC_WRAPPER",
            "RUSTC_WORKSPACE_WRAPPER",
        ];
        let profile =
            name_text.starts_with("CARGO_PROFILE_") || name_text.starts_with("CARGO_FEATURE_");
        if inner.contains(&&*name_text) || profile || name_text.starts_with("CLIPPY") {
            cargo.env_remove(&name);
        }
    }
    let static_libc = target
        .contains("linux")
        .then_some("-C target-feature=+crt-static");
    cargo.env("RUSTFLAGS", static_libc.unwrap_or_default());
    let status = cargo.status().expect("cargo runs");
    assert!(status.success(), "building the runner failed: {status}");
    target_dir.join(target).join("runner/longshore-runner")
}

fn var(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("{name} is not set by cargo"))
}
