//! Writes the generated parts of `experiments/README.md`: the experiments, the tables of claims, and the results.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};
use bonsai_claims::{Sheet, Verdict, answers, readme, sheet, tally};
use bonsai_training::run_folder::write_atomic;

use crate::error::user;
use crate::{experiments, ledger};

/// The page, from the project's folder.
pub const PAGE: &str = "experiments/README.md";

/// Writes the page anew and says what happened.
///
/// # Errors
///
/// A page without the marks of a part, or a wrong table of claims, is a user's mistake.
pub fn write() -> Result<String> {
    let page = Path::new(PAGE);
    let old = std::fs::read_to_string(page).with_context(|| format!("reading {PAGE}"))?;
    let new = generated(&old)?;
    if new == old {
        return Ok(format!("{PAGE} is up to date\n"));
    }
    write_atomic(page, new.as_bytes())?;
    Ok(format!("{PAGE} is written anew\n"))
}

/// Returns the page with its generated parts as they should be.
///
/// # Errors
///
/// As [`write`].
pub fn generated(page: &str) -> Result<String> {
    let parts = [("experiments", list()?), ("claims", claims()?), ("results", results())];
    let mut page = page.to_string();
    for (name, text) in parts {
        page = readme::replace(&page, name, &text).map_err(|message| user(format!("{PAGE}: {message}")))?;
    }
    Ok(page)
}

/// Every experiment with the sentence at the start of its file.
fn list() -> Result<String> {
    let mut text = String::from("| experiment | what it is |\n|---|---|\n");
    for name in experiments::names() {
        let file = experiments::read(&experiments::find(&name)?)?;
        let _ = writeln!(text, "| `{name}` | {} |", readme::first_comment(&file).replace('|', "\\|"));
    }
    Ok(text)
}

/// Every table of claims with its verdicts, and the cells for which there are runs.
fn claims() -> Result<String> {
    let runs = ledger::find(&[Path::new(ledger::RESULTS)]);
    let mut text = String::from(
        "| table | paper | cells | reproduced | not reproduced | not comparable | not run |\n|---|---|---|---|---|---|---|\n",
    );
    let mut found = String::new();
    for name in ledger::names() {
        let claims = ledger::read(&name)?;
        let answers = answers(&claims, &runs, &|recipe| ledger::resolve_as_found(recipe, &runs)).map_err(user)?;
        let counts = tally(&answers);
        let of = |word: &str| counts.get(word).map_or_else(String::new, usize::to_string);
        let _ = writeln!(
            text,
            "| [`{name}`](claims/{name}.toml) | {} ({}) | {} | {} | {} | {} | {} |",
            claims.title,
            claims.year,
            answers.len(),
            of("reproduced"),
            of("not reproduced"),
            of("not comparable"),
            of("not run"),
        );
        let run: Vec<_> = answers.into_iter().filter(|answer| !matches!(answer.verdict, Verdict::NotRun(_))).collect();
        if !run.is_empty() {
            let Sheet { columns, rows, .. } = sheet(&claims, &run);
            // Hardware and parameters are in the table itself.
            let kept: Vec<usize> = (0..columns.len()).filter(|index| ![12, 13].contains(index)).collect();
            let pick = |cells: Vec<String>| kept.iter().map(|index| cells[*index].clone()).collect();
            let short =
                Sheet { columns: pick(columns), rows: rows.into_iter().map(pick).collect(), ..Sheet::default() };
            let _ = write!(found, "\nOf `{name}`:\n\n{}", short.markdown_table());
        }
    }
    Ok(text + &found)
}

/// What `experiments/results/` holds.
fn results() -> String {
    readme::results(&ledger::find(&[Path::new(ledger::RESULTS)])).markdown_table()
}
