//! `bonsai new-scheduler`: starts a scheduler in a crate of its own.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::error::user;

const EXAMPLES: &str = "\
Examples:
  bonsai new-scheduler my-idea
  bonsai new-scheduler my-idea --path ../my-idea

Called from bonsai's own folder. Without --path the crate becomes crates/schedulers/NAME, a member of the workspace.";

/// Where schedulers of others lie in the workspace.
const FOLDER: &str = "crates/schedulers";

/// What a crate elsewhere asks of bonsai: with a version that breaks it, Cargo says so before the compiler does.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION_MAJOR"), ".", env!("CARGO_PKG_VERSION_MINOR"));

/// Start a scheduler in a crate of its own.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The scheduler's name in experiments: lower-case words joined by hyphens
    name: String,
    /// Folder of the new crate
    #[arg(long, value_name = "DIR")]
    path: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
///
/// A name that is taken or no name, a folder that exists, and a call from elsewhere are the user's mistakes.
pub fn run(args: Args) -> Result<String> {
    let Args { name, path } = args;
    check_name(&name)?;
    let root = std::env::current_dir().context("reading the current folder")?;
    if !root.join(FOLDER).is_dir() {
        return Err(user(format!("there is no folder {FOLDER} here: call this from bonsai's own folder")));
    }
    let folder = path.clone().unwrap_or_else(|| Path::new(FOLDER).join(&name));
    if folder.exists() {
        return Err(user(format!("{} exists already: choose another name or another --path", folder.display())));
    }
    let place = if path.is_some() { Place::Outside { bonsai: root.clone() } } else { Place::Workspace };
    let files = files(&name, &place);
    for (file, text) in &files {
        let target = folder.join(file);
        let parent = target.parent().unwrap_or(&folder);
        fs::create_dir_all(parent).with_context(|| format!("creating {}", parent.display()))?;
        fs::write(&target, text).with_context(|| format!("writing {}", target.display()))?;
    }
    // With bonsai's versions of everything, what is built for bonsai serves here too.
    let lock = root.join("Cargo.lock");
    if path.is_some() && lock.is_file() {
        let target = folder.join("Cargo.lock");
        fs::copy(&lock, &target).with_context(|| format!("writing {}", target.display()))?;
    }
    let readme = files.iter().find(|(file, _)| file == "README.md").map_or("", |(_, text)| text.as_str());
    let commands: String = readme
        .lines()
        .filter(|line| ["cargo ", "export "].iter().any(|word| line.starts_with(word)))
        .map(|c| format!("  {c}\n"))
        .collect();
    let enter = if path.is_some() { format!("  cd {}\n", folder.display()) } else { String::new() };
    Ok(format!(
        "{} is ready; the method is in src/lib.rs. Test, plan, train and draw it:\n{enter}{commands}",
        folder.display()
    ))
}

/// Quotes what a shell would take apart.
fn shell(path: &str) -> String {
    let plain = |letter: char| letter.is_alphanumeric() || "-_./+@%:,".contains(letter);
    if path.chars().all(plain) { path.to_string() } else { format!("'{}'", path.replace('\'', r"'\''")) }
}

fn check_name(name: &str) -> Result<()> {
    let word = |word: &str| {
        word.starts_with(|c: char| c.is_ascii_lowercase())
            && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit())
    };
    if !name.split('-').all(word) {
        return Err(user(format!(
            "`{name}` is no name of a scheduler: use lower-case words joined by hyphens, as in my-idea"
        )));
    }
    if name == "bonsai" || bonsai_pruning::names().contains(&name) {
        return Err(user(format!("the name `{name}` is taken: choose another one")));
    }
    Ok(())
}

/// Where the new crate lies.
enum Place {
    /// Among the members of bonsai's workspace.
    Workspace,
    /// Anywhere else.
    Outside {
        /// The folder of bonsai's workspace.
        bonsai: PathBuf,
    },
}

/// Returns the files of a new crate by their paths in it.
fn files(name: &str, place: &Place) -> Vec<(String, String)> {
    let module = name.replace('-', "_");
    let capital = |word: &str| word[..1].to_uppercase() + &word[1..];
    let type_name: String = name.split('-').map(capital).collect();
    let dependency = |folder: &str| match place {
        Place::Workspace => ".workspace = true".to_string(),
        Place::Outside { bonsai } => {
            let path = bonsai.join("crates").join(folder);
            format!(" = {{ path = {}, version = \"{VERSION}\" }}", toml::Value::from(path.display().to_string()))
        }
    };
    let (package, serde, profile, target, workspace, folder) = match place {
        Place::Workspace => (
            "version.workspace = true\nedition.workspace = true\nrust-version.workspace = true\nlicense.workspace = true\n\
             publish.workspace = true\n\n[lints]\nworkspace = true",
            ".workspace = true",
            "",
            String::new(),
            " --workspace",
            format!("{FOLDER}/{name}/"),
        ),
        Place::Outside { bonsai } => (
            "version = \"0.1.0\"\nedition = \"2024\"\npublish = false",
            " = { version = \"1\", features = [\"derive\"] }",
            "\n# A workspace of its own, wherever the folder lies.\n[workspace]\n\n\
             # As bonsai's, so that both can share what is built.\n\
             [profile.release]\ncodegen-units = 16\ndebug = \"line-tables-only\"\n\n\
             [profile.release.package.\"*\"]\ndebug = false\n",
            // burn takes a quarter of an hour to build.
            format!("export CARGO_TARGET_DIR={}\n", shell(&bonsai.join("target").display().to_string())),
            "",
            String::new(),
        ),
    };
    let values = [
        ("{{name}}", name),
        ("{{crate}}", &module),
        ("{{Type}}", &type_name),
        ("{{package}}", package),
        ("{{bonsai}}", &dependency("cli")),
        ("{{bonsai-pruning}}", &dependency("pruning")),
        ("{{bonsai-testkit}}", &dependency("testkit")),
        ("{{serde}}", serde),
        ("{{profile}}", profile),
        ("{{target}}", &target),
        ("{{workspace}}", workspace),
        ("{{folder}}", &folder),
    ];
    let fill = |template: &str| {
        let text = values.iter().fold(template.to_string(), |text, (key, value)| text.replace(key, value));
        text.trim_end().to_string() + "\n"
    };
    vec![
        ("Cargo.toml".to_string(), fill(include_str!("../templates/scheduler/Cargo.toml.in"))),
        ("README.md".to_string(), fill(include_str!("../templates/scheduler/README.md.in"))),
        ("src/lib.rs".to_string(), fill(include_str!("../templates/scheduler/lib.rs.in"))),
        ("src/main.rs".to_string(), fill(include_str!("../templates/scheduler/main.rs.in"))),
        (format!("tests/{module}.rs"), fill(include_str!("../templates/scheduler/contract.rs.in"))),
        (format!("shapes10-resnet20-{name}.toml"), fill(include_str!("../templates/scheduler/experiment.toml.in"))),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_words_joined_by_hyphens_that_nobody_has() {
        for good in ["acdc", "my-idea", "top-k2"] {
            check_name(good).unwrap();
        }
        for bad in ["", "My-Idea", "my_idea", "-a", "a-", "2fast", "a--b", "über", "granet", "bonsai", "../x"] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_workspaces_example_is_what_the_command_writes() {
        let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../schedulers/one-shot");
        if !committed.exists() {
            println!("crates/schedulers/one-shot was deleted: there is nothing to compare with");
            return;
        }
        for (file, text) in files("one-shot", &Place::Workspace) {
            let there = fs::read_to_string(committed.join(&file)).unwrap();
            assert!(there == text, "crates/schedulers/one-shot/{file} differs: delete the folder and create it again");
        }
    }

    #[test]
    fn outside_crates_build_what_they_share_with_bonsai_alike() {
        let root: toml::Table = include_str!("../../../Cargo.toml").parse().unwrap();
        let files = files("my-idea", &Place::Outside { bonsai: PathBuf::from("/b") });
        let manifest: toml::Table = files[0].1.parse().unwrap();
        let mut expected = root["profile"]["release"].as_table().unwrap().clone();
        // Cargo takes it for the members of a workspace alone, and never for what comes from elsewhere.
        expected.remove("incremental");
        assert_eq!(manifest["profile"]["release"].as_table(), Some(&expected));
        assert_eq!(shell("/a b/it's"), r"'/a b/it'\''s'");
    }

    #[test]
    fn the_guide_shows_the_method_that_the_command_writes() {
        // What the guide shows is compiled and run by the documentation tests of `bonsai-pruning`.
        let guide = include_str!("../../pruning/guide.md");
        let files = files("my-idea", &Place::Workspace);
        let (_, method) = files.iter().find(|(file, _)| file == "src/lib.rs").unwrap();
        let code = &method[method.find("use bonsai_pruning").unwrap()..];
        assert!(guide.contains(&format!("```rust\n{code}```")), "crates/pruning/guide.md shows another src/lib.rs");
    }

    #[test]
    fn outside_crates_name_bonsais_folder_and_no_workspace() {
        let files = files("my-idea", &Place::Outside { bonsai: PathBuf::from("/b") });
        let manifest: toml::Table = files[0].1.parse().unwrap();
        assert_eq!(manifest["dependencies"]["bonsai"]["path"].as_str(), Some("/b/crates/cli"));
        assert_eq!(manifest["dev-dependencies"]["bonsai-testkit"]["path"].as_str(), Some("/b/crates/testkit"));
        for dependency in [&manifest["dependencies"]["bonsai-pruning"], &manifest["dev-dependencies"]["bonsai-testkit"]]
        {
            assert_eq!(dependency["version"].as_str(), Some(VERSION));
        }
        assert!(manifest["workspace"].as_table().unwrap().is_empty());
        assert!(files[1].1.contains("\nexport CARGO_TARGET_DIR=/b/target\ncargo test "), "{}", files[1].1);
        assert!(files.iter().all(|(_, text)| !text.contains("{{")));
    }
}
