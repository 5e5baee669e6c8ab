//! What papers claim, as files: one TOML a table of a paper, one row a method, one cell a figure.

use std::fmt;

use serde::Deserialize;

use crate::sentence;

/// A table of a paper: the content of a file under `experiments/claims/`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claims {
    /// Name of the file without `.toml`.
    #[serde(skip)]
    pub name: String,
    /// Title of the paper, or of what else claims the figures.
    pub title: String,
    /// Who wrote it.
    pub authors: String,
    /// The year of publication.
    pub year: u16,
    /// Where it can be read.
    pub link: String,
    /// Which table of it.
    pub table: String,
    /// Which network of a training the paper takes the accuracy of.
    pub selection: Selection,
    /// How the paper trained and measured, in words.
    pub protocol: String,
    /// What else must be known about the figures.
    #[serde(default)]
    pub note: Option<String>,
    /// The methods.
    #[serde(rename = "row")]
    pub rows: Vec<Row>,
}

/// One method on one network and data set.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// The method as the paper calls it.
    pub method: String,
    /// The network.
    pub network: String,
    /// The data set.
    pub data: String,
    /// The experiment that stands for the row, a name under `experiments/`.
    #[serde(default)]
    pub experiment: Option<String>,
    /// What is changed about the experiment, in the form of `--set`.
    #[serde(default)]
    pub set: Vec<String>,
    /// Why no experiment stands for it.
    #[serde(default)]
    pub not_run: Option<String>,
    /// In what our experiment departs from the paper so far that no verdict can be given.
    #[serde(default)]
    pub differs: Option<String>,
    /// In what our experiment departs from the paper without that.
    #[serde(default)]
    pub note: Option<String>,
    /// The experiment that is this row's own dense baseline; if absent, that of the table's dense cell of the same network and
    /// data.
    #[serde(default)]
    pub baseline: Option<Recipe>,
    /// The figures.
    pub cells: Vec<Cell>,
}

/// One figure of a paper; without `mean` and `gain` the paper's figure is not known, and the cell stays empty.
#[derive(Clone, Debug, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cell {
    /// The share of the weights that is removed.
    #[serde(default)]
    pub sparsity: Option<f64>,
    /// The share of the dense network's multiply-accumulates that is left.
    #[serde(default)]
    pub macs: Option<f64>,
    /// The share of the channels that is removed.
    #[serde(default)]
    pub channels: Option<f64>,
    /// Whether the method itself finds out how much is left.
    #[serde(default)]
    pub open: bool,
    /// Learnable parameters that are left, as the paper counts them.
    #[serde(default)]
    pub parameters: Option<f64>,
    /// The mean test accuracy, in per cent.
    #[serde(default)]
    pub mean: Option<f64>,
    /// The standard deviation that the paper gives, in points.
    #[serde(default)]
    pub std: Option<f64>,
    /// The runs behind the mean, where the paper says so.
    #[serde(default)]
    pub n: Option<u32>,
    /// Instead of a mean, the points by which the paper is above its own dense baseline.
    #[serde(default)]
    pub gain: Option<f64>,
    /// How far the figure itself is confirmed.
    #[serde(default)]
    pub trust: Trust,
    /// What `bonsai reproduce --short` runs in the cell's place.
    #[serde(default)]
    pub short: Option<Recipe>,
}

/// An experiment with changes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// A name under `experiments/`.
    pub experiment: String,
    /// What is changed about it, in the form of `--set`.
    #[serde(default)]
    pub set: Vec<String>,
}

/// Which network of a training an accuracy belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Selection {
    /// The best test accuracy of any epoch at the target: chosen on the test set itself.
    BestTest,
    /// The network of the epoch with the best validation accuracy.
    BestValid,
    /// The network as training left it.
    Last,
    /// The paper does not say, or nobody could look; the last network stands in.
    Unknown,
}

/// How far a claimed figure is confirmed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Trust {
    /// Read in a public text.
    Source,
    /// Read in the official code or its README.
    Code,
    /// Recalled; no text was at hand to check it against.
    #[default]
    Unchecked,
    /// The most faithful reading of a text that does not state it.
    Reading,
}

impl fmt::Display for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Trust::Source => "source",
            Trust::Code => "code",
            Trust::Unchecked => "unchecked",
            Trust::Reading => "reading",
        })
    }
}

impl Selection {
    /// The rule in a few words.
    pub fn words(self) -> &'static str {
        match self {
            Selection::BestTest => "best test accuracy of any epoch at the target",
            Selection::BestValid => "test accuracy of the epoch that validation chose",
            Selection::Last => "test accuracy after the last epoch",
            Selection::Unknown => "not known; the last epoch stands in",
        }
    }
}

impl Claims {
    /// Reads a file; `name` is its name without `.toml`.
    ///
    /// # Errors
    ///
    /// One sentence with the file, the line or the cell, and the key.
    pub fn from_toml(text: &str, name: &str) -> Result<Self, String> {
        let mut claims: Self = toml::from_str(text).map_err(|error| sentence::of_toml(&error, text, name))?;
        claims.name = name.to_string();
        claims.check().map_err(|message| format!("{name}.toml: {message}"))?;
        Ok(claims)
    }

    /// Every cell with its row, in the order of the file.
    pub fn cells(&self) -> impl Iterator<Item = (&Row, &Cell)> {
        self.rows.iter().flat_map(|row| row.cells.iter().map(move |cell| (row, cell)))
    }

    fn check(&self) -> Result<(), String> {
        filled("title", &self.title)?;
        filled("authors", &self.authors)?;
        filled("link", &self.link)?;
        filled("table", &self.table)?;
        filled("protocol", &self.protocol)?;
        if !(1950..=2100).contains(&self.year) {
            return Err(format!("year is {}, and must be a year of publication", self.year));
        }
        if self.rows.is_empty() {
            return Err("it has no [[row]]: a table of claims has one at least".to_string());
        }
        let mut seen = Vec::new();
        for row in &self.rows {
            let place = format!("row `{}` ({} on {})", row.method, row.network, row.data);
            row.check().map_err(|message| format!("{place}: {message}"))?;
            for (index, cell) in row.cells.iter().enumerate() {
                let place = format!("{place}, cell {}", index + 1);
                cell.check().map_err(|message| format!("{place}: {message}"))?;
                if cell.gain.is_some() && row.experiment.is_some() && row.baseline.is_none() {
                    return Err(format!("{place}: gain is over a dense network: the row needs a baseline"));
                }
                if cell.short.is_some() && row.experiment.is_none() {
                    return Err(format!("{place}: short stands in for an experiment, and the row has none"));
                }
                let about = (&row.method, &row.network, &row.data, cell.target());
                if seen.contains(&about) {
                    return Err(format!("{place}: the same method, network, data and target come twice"));
                }
                seen.push(about);
            }
        }
        Ok(())
    }
}

impl Row {
    /// The experiment of one of the row's cells: the row's own with the cell's target set.
    pub fn recipe(&self, cell: &Cell) -> Option<Recipe> {
        let experiment = self.experiment.clone()?;
        Some(cell.aimed(Recipe { experiment, set: self.set.clone() }))
    }

    fn check(&self) -> Result<(), String> {
        filled("method", &self.method)?;
        filled("network", &self.network)?;
        filled("data", &self.data)?;
        if self.cells.is_empty() {
            return Err("cells is empty: a row has one at least".to_string());
        }
        match (&self.experiment, &self.not_run) {
            (Some(_), Some(_)) => Err("experiment and not_run contradict each other: leave one away".to_string()),
            (None, None) => {
                Err("it needs an experiment that stands for it, or not_run, which says why there is none".to_string())
            }
            (None, Some(_)) if !self.set.is_empty() => {
                Err("set changes an experiment, and the row has none".to_string())
            }
            (Some(experiment), None) => filled("experiment", experiment),
            (None, Some(why)) => filled("not_run", why),
        }
    }
}

/// What a cell asks of the network.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target {
    /// All weights stay.
    Dense,
    /// The share of the weights that is removed.
    Sparsity(f64),
    /// The share of the dense network's multiply-accumulates that is left.
    Macs(f64),
    /// The share of the channels that is removed.
    Channels(f64),
    /// As much as the method leaves.
    Open,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Target::Dense => f.write_str("dense"),
            Target::Sparsity(share) => write!(f, "{} % sparse", trimmed(share)),
            Target::Macs(share) => write!(f, "{} % of MACs", trimmed(share)),
            Target::Channels(share) => write!(f, "{} % of channels off", trimmed(share)),
            Target::Open => f.write_str("as the method leaves it"),
        }
    }
}

impl Cell {
    /// What the cell asks of the network.
    pub fn target(&self) -> Target {
        match (self.sparsity, self.macs, self.channels) {
            (Some(share), _, _) => Target::Sparsity(share),
            (None, Some(share), _) => Target::Macs(share),
            (None, None, Some(share)) => Target::Channels(share),
            (None, None, None) if self.open => Target::Open,
            (None, None, None) => Target::Dense,
        }
    }

    /// What `--short` runs in the cell's place, with the cell's target set.
    pub fn stand_in(&self) -> Option<Recipe> {
        self.short.clone().map(|recipe| self.aimed(recipe))
    }

    /// Sets the cell's target in the scheduler, unless the recipe sets that key itself.
    fn aimed(&self, mut recipe: Recipe) -> Recipe {
        let (key, share) = match self.target() {
            Target::Dense | Target::Open => return recipe,
            Target::Sparsity(share) => ("scheduler.sparsity", share),
            Target::Macs(share) => ("scheduler.macs", share),
            Target::Channels(share) => ("scheduler.channels", share),
        };
        if !recipe.set.iter().any(|change| change.split('=').next().is_some_and(|path| path.trim() == key)) {
            recipe.set.push(format!("{key}={share}"));
        }
        recipe
    }

    fn check(&self) -> Result<(), String> {
        let shares = [("sparsity", self.sparsity), ("macs", self.macs), ("channels", self.channels)];
        let mut targets: Vec<&str> = shares.iter().filter(|(_, share)| share.is_some()).map(|(key, _)| *key).collect();
        targets.extend(self.open.then_some("open"));
        if let [first, second, ..] = targets[..] {
            return Err(format!("{first} and {second} are two targets: leave one away"));
        }
        for (key, share) in shares {
            if let Some(share) = share.filter(|share| !(*share > 0.0 && *share < 1.0)) {
                return Err(format!("{key} is {share}, and must lie between 0 and 1"));
            }
        }
        for (key, figure, high) in [("mean", self.mean, 100.0), ("std", self.std, 50.0)] {
            if let Some(figure) = figure.filter(|figure| !(0.0..=high).contains(figure)) {
                return Err(format!("{key} is {figure}, and must lie between 0 and {high} (in per cent)"));
            }
        }
        if let Some(mean) = self.mean.filter(|mean| *mean > 0.0 && *mean <= 1.0) {
            return Err(format!("mean is {mean}: accuracies are written in per cent, as in mean = 93.85"));
        }
        if let Some(gain) = self.gain.filter(|gain| !(-100.0..=100.0).contains(gain)) {
            return Err(format!("gain is {gain}, and must lie between -100 and 100 points"));
        }
        if let Some(parameters) = self.parameters.filter(|parameters| !(*parameters >= 1.0 && parameters.is_finite())) {
            return Err(format!("parameters is {parameters}, and must be a number of 1 at least"));
        }
        if self.n == Some(0) {
            return Err("n is 0: leave it away where the paper does not say how many runs it made".to_string());
        }
        match (self.mean, self.gain) {
            (Some(_), Some(_)) => Err("mean and gain are two figures: leave one away".to_string()),
            (None, None) if self.std.is_some() => Err("std is given without a mean or gain".to_string()),
            _ => Ok(()),
        }
    }
}

/// A share as a percentage without needless digits: `95`, `40.3`.
pub(crate) fn trimmed(share: f64) -> String {
    let text = format!("{:.2}", 100.0 * share);
    text.trim_end_matches('0').trim_end_matches('.').to_string()
}

fn filled(key: &str, text: &str) -> Result<(), String> {
    if text.trim().is_empty() { Err(format!("{key} is empty")) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A made-up paper.
    const HEAD: &str = "title = 'A paper that was never written'\nauthors = 'Nobody'\nyear = 2021\nlink = 'https://example.org'\n\
                        table = '1'\nselection = 'best-test'\nprotocol = 'none'\n";

    fn read(rows: &str) -> Result<Claims, String> {
        Claims::from_toml(&format!("{HEAD}{rows}"), "paper")
    }

    const ROW: &str = "[[row]]\nmethod = 'GMP'\nnetwork = 'VGG-19'\ndata = 'CIFAR-10'\nexperiment = 'a'\n";

    #[test]
    fn a_cells_target_is_set_in_the_experiment() {
        let claims =
            read(&format!("{ROW}set = ['data=cifar100']\ncells = [{{ sparsity = 0.9, mean = 93.59 }}, {{}}]")).unwrap();
        let recipes: Vec<_> = claims.cells().map(|(row, cell)| row.recipe(cell).unwrap()).collect();
        assert_eq!(recipes[0].set, ["data=cifar100", "scheduler.sparsity=0.9"]);
        assert_eq!(recipes[1].set, ["data=cifar100"]);
        assert_eq!(claims.rows[0].cells[0].trust, Trust::Unchecked, "what nobody marked is not confirmed");
    }

    #[test]
    fn a_target_of_its_own_stays() {
        let row = format!("{ROW}set = ['scheduler.channels = 0.6']\ncells = [{{ channels = 0.7 }}]");
        let claims = read(&row).unwrap();
        assert_eq!(claims.rows[0].recipe(&claims.rows[0].cells[0]).unwrap().set, ["scheduler.channels = 0.6"]);
    }

    #[test]
    fn unknown_keys_suggest_the_nearest() {
        let message = read(&format!("{ROW}cells = [{{ sparsety = 0.9 }}]")).unwrap_err();
        assert!(message.starts_with("paper.toml, line 13: ") && message.contains("`sparsety`"), "{message}");
        assert!(message.contains("did you mean `sparsity`?"), "{message}");
        let message = Claims::from_toml(&format!("tittle = 'x'\n{HEAD}"), "paper").unwrap_err();
        assert!(message.contains("line 1") && message.contains("did you mean `title`?"), "{message}");
        let message = read(&format!("{ROW}cells = [{{ trust = 'checked' }}]")).unwrap_err();
        assert!(message.contains("unchecked"), "{message}");
    }

    #[test]
    fn impossible_values_are_one_sentence_with_file_and_key() {
        let cell = |cell: &str| format!("{ROW}cells = [{{ {cell} }}]");
        for (rows, fragments) in [
            (cell("sparsity = 1.5"), &["row `GMP` (VGG-19 on CIFAR-10), cell 1: sparsity is 1.5"][..]),
            (cell("sparsity = nan"), &["sparsity is NaN"]),
            (cell("macs = 0"), &["macs is 0"]),
            (cell("sparsity = 0.5, macs = 0.5"), &["sparsity and macs are two targets"]),
            (cell("sparsity = 0.5, open = true"), &["sparsity and open are two targets"]),
            (cell("mean = 193.0"), &["mean is 193"]),
            (cell("mean = 0.93"), &["mean is 0.93", "per cent"]),
            (cell("mean = 93, std = -1"), &["std is -1"]),
            (cell("std = 1"), &["std is given without a mean"]),
            (cell("mean = 93, n = 0"), &["n is 0"]),
            (cell("mean = 93, gain = 1"), &["mean and gain"]),
            (cell("gain = 1"), &["needs a baseline"]),
            (cell("gain = 101"), &["gain is 101"]),
            (cell("parameters = 0"), &["parameters is 0"]),
            (cell("}, {"), &["cell 2", "come twice"]),
            (cell("").replace("experiment = 'a'\n", ""), &["needs an experiment", "not_run"]),
            (cell("").replace("experiment = 'a'\n", "not_run = ' '\n"), &["not_run is empty"]),
            (cell("").replace("experiment = 'a'\n", "not_run = 'x'\nset = ['a=1']\n"), &["set changes an experiment"]),
            (cell("").replace("data = 'CIFAR-10'\n", ""), &["`data`"]),
            (format!("{ROW}not_run = 'x'\ncells = [{{}}]"), &["contradict"]),
            (format!("{ROW}cells = []"), &["cells is empty"]),
            ("row = []".to_string(), &["no [[row]]"]),
            (
                cell("short = { experiment = 'b' }").replace("experiment = 'a'\n", "not_run = 'x'\n"),
                &["short stands in"],
            ),
        ] {
            let message = read(&rows).unwrap_err();
            assert!(message.starts_with("paper.toml") && !message.contains('\n'), "{message}");
            for fragment in fragments {
                assert!(message.contains(fragment), "`{fragment}` is not in: {message}");
            }
        }
        let message = Claims::from_toml(&HEAD.replace("2021", "21"), "paper").unwrap_err();
        assert!(message.contains("row"), "{message}");
    }
}
