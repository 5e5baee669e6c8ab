//! What the terminal view shows, and how it is laid out: figures above, curves and layers below.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::symbols::Marker;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Axis, Block, Chart, Dataset, Gauge, GraphType, Paragraph};

use super::curve::Curve;
use super::layers::{self, LayerState};
use super::plain::Mean;
use super::text::{count, duration, percent, plural, rate, short_count, speed};
use super::{Plan, Progress};
use crate::records::EventRow;

/// From this size on curves and layers stand beside each other, and from this height on below each other.
const BESIDE: (u16, u16) = (110, 14);
const BELOW: u16 = 40;
/// Points of a training curve in an epoch.
const PARTS: u64 = 10;
const TRAIN: Color = Color::Yellow;
const VALID: Color = Color::Blue;

/// The curves that can be looked at, one after the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Plot {
    #[default]
    Accuracy,
    Loss,
    Sparsity,
    Speed,
}

impl Plot {
    const ALL: [Self; 4] = [Self::Accuracy, Self::Loss, Self::Sparsity, Self::Speed];

    /// The one after it.
    pub fn next(self) -> Self {
        Self::ALL[(self as usize + 1) % Self::ALL.len()]
    }

    fn title(self) -> &'static str {
        match self {
            Self::Accuracy => "accuracy, %",
            Self::Loss => "loss",
            Self::Sparsity => "weights removed, %",
            Self::Speed => "images/s",
        }
    }
}

/// Everything that is on the screen.
#[derive(Clone, Debug, Default)]
pub struct Shown {
    title: String,
    detail: String,
    epochs: u64,
    iterations_per_epoch: u64,
    progress: Option<Progress>,
    left: Option<f64>,
    valid: Option<(f64, f64)>,
    /// While training, and on the validation split where there are two.
    curves: [[Curve; 2]; 4],
    /// What the next points of the training curves will be means of.
    parts: [Mean; 4],
    /// How many parts of an epoch are drawn, or under way.
    part: u64,
    layers: Vec<LayerState>,
    event: Vec<Line<'static>>,
    note: Option<String>,
    /// A word that must be seen now, such as that the training is about to stop.
    pub message: Option<String>,
    /// The curves on the screen.
    pub plot: Plot,
    /// Whether curves take the place of layers where there is no room for both.
    pub curves_first: bool,
    /// Layers that are scrolled past.
    pub skip: usize,
    /// How many layers the last picture had room for.
    page: usize,
}

impl Shown {
    /// Starts with what is known before the first step.
    pub fn new(plan: &Plan) -> Self {
        Self {
            title: plan.title.to_string(),
            detail: plan.detail.to_string(),
            epochs: plan.epochs,
            iterations_per_epoch: plan.iterations_per_epoch.max(1),
            layers: plan.layers.iter().map(state).collect(),
            ..Self::default()
        }
    }

    /// Takes up where the training stands; `left` are the seconds to its end.
    pub fn progress(&mut self, progress: &Progress, left: Option<f64>) {
        let values = [100.0 * progress.accuracy, progress.loss, 100.0 * progress.sparsity, progress.images_per_second];
        self.parts.iter_mut().zip(values).for_each(|(part, value)| part.add(value));
        // Single steps are too noisy to look at.
        let part = progress.iteration * PARTS / self.iterations_per_epoch;
        if part > self.part {
            self.part = part;
            let at = progress.iteration as f64 / self.iterations_per_epoch as f64;
            let means = self.curves.iter_mut().zip(&mut self.parts);
            means.for_each(|(curves, part)| curves[0].push(at, part.take()));
        }
        (self.progress, self.left) = (Some(*progress), left);
    }

    /// Takes up a mask event.
    pub fn event(&mut self, event: &EventRow) {
        for layer in &mut self.layers {
            let changed = event.layers.iter().find(|changed| changed.name == layer.name);
            (layer.grown, layer.pruned) = changed.map_or((0, 0), |changed| (changed.grown, changed.pruned));
            layer.kept = changed.map_or(layer.kept, |changed| changed.kept);
        }
        let grown = if event.grown > 0 { format!(", {} grown", short_count(event.grown)) } else { String::new() };
        let channels: u64 = event.groups.iter().map(|group| group.pruned).sum();
        let channels =
            if channels > 0 { format!(", {}", plural(channels, "channel", "channels")) } else { String::new() };
        let what =
            format!("after step {}: {} pruned{channels}{grown}", count(event.iteration), short_count(event.pruned));
        // And what the engine and the scheduler observe.
        let figures = event.figures.iter().map(|(name, value)| format!("{name} {}", figure(*value)));
        self.event = std::iter::once(what).chain(figures).map(Line::from).collect();
    }

    /// Takes up the end of an epoch.
    pub fn epoch(&mut self, at: f64, valid_loss: f64, valid_accuracy: f64, kept: &[(&str, u64)]) {
        self.curves[Plot::Accuracy as usize][1].push(at, 100.0 * valid_accuracy);
        self.curves[Plot::Loss as usize][1].push(at, valid_loss);
        self.valid = Some((valid_loss, valid_accuracy));
        for layer in &mut self.layers {
            layer.kept = kept.iter().find(|(name, _)| *name == layer.name).map_or(layer.kept, |(_, kept)| *kept);
        }
    }

    /// Takes up a note; the last one stays.
    pub fn note(&mut self, text: &str) {
        self.note = Some(text.to_string());
    }

    /// Scrolls a page of layers on or back.
    pub fn scroll(&mut self, on: bool) {
        let last = self.layers.len().saturating_sub(self.page);
        self.skip = if on { (self.skip + self.page).min(last) } else { self.skip.saturating_sub(self.page) };
    }

    /// Draws it all.
    pub fn draw(&mut self, frame: &mut Frame) {
        let area = frame.area();
        let figures = self.figures();
        let figures = wrapped(&figures, area.width);
        let notes = u16::from(self.note.is_some());
        let heights = [1, 1, figures.len() as u16, notes];
        let [top, gauge, numbers, note, body, bottom] = Layout::vertical([
            Constraint::Length(heights[0]),
            Constraint::Length(heights[1]),
            Constraint::Length(heights[2]),
            Constraint::Length(heights[3]),
            Constraint::Min(0),
            Constraint::Length(1),
        ])
        .areas(area);
        frame.render_widget(
            Line::from(vec![Span::from(self.title.clone()).bold(), " · ".dim(), self.detail.clone().dim()]),
            top,
        );
        self.draw_gauge(frame, gauge);
        frame.render_widget(Paragraph::new(figures), numbers);
        if let Some(text) = &self.note {
            frame.render_widget(Line::from(text.clone().magenta()), note);
        }
        let beside = body.width >= BESIDE.0 && body.height >= BESIDE.1;
        if beside {
            let [left, right] = Layout::horizontal([Constraint::Percentage(40), Constraint::Min(0)]).areas(body);
            self.draw_curves(frame, left);
            self.draw_layers(frame, right);
        } else if body.height >= BELOW {
            let [above, below] = Layout::vertical([Constraint::Percentage(35), Constraint::Min(0)]).areas(body);
            self.draw_curves(frame, above);
            self.draw_layers(frame, below);
        } else if self.curves_first {
            self.draw_curves(frame, body);
        } else {
            self.draw_layers(frame, body);
        }
        self.draw_keys(frame, bottom, !beside && body.height < BELOW);
    }

    fn draw_gauge(&self, frame: &mut Frame, area: Rect) {
        let all = self.epochs * self.iterations_per_epoch;
        let done = self.progress.map_or(0, |progress| progress.iteration);
        let share = if all == 0 { 0.0 } else { (done as f64 / all as f64).min(1.0) };
        let epoch = self.progress.map_or(0, |progress| progress.epoch) + 1;
        let left = self.left.map_or_else(String::new, |left| format!(", {} left", duration(left)));
        let label = format!("epoch {epoch} of {}, step {} of {}{left}", self.epochs, count(done), count(all));
        frame
            .render_widget(Gauge::default().gauge_style(Style::new().fg(Color::Green)).ratio(share).label(label), area);
    }

    /// The headline figures, each with its values.
    fn figures(&self) -> Vec<Line<'static>> {
        let Some(progress) = &self.progress else { return vec![Line::from("waiting for the first step")] };
        let pair = |name: &str, train: String, valid: Option<String>| {
            let mut spans = vec![Span::raw(format!("{name} ")), Span::styled(train, TRAIN)];
            if let Some(valid) = valid {
                spans.extend([Span::raw(" / "), Span::styled(valid, VALID)]);
            }
            Line::from(spans)
        };
        let valid = |pick: fn(&(f64, f64)) -> String| self.valid.as_ref().map(pick);
        let mut lines = vec![
            pair(
                "accuracy",
                format!("{} %", percent(progress.accuracy)),
                valid(|(_, accuracy)| format!("{} %", percent(*accuracy))),
            ),
            pair("loss", format!("{:.4}", progress.loss), valid(|(loss, _)| format!("{loss:.4}"))),
        ];
        if self.valid.is_some() {
            lines.push(Line::from(vec!["training".fg(TRAIN), " / ".into(), "validation".fg(VALID)]));
        }
        lines.push(Line::from(format!("sparsity {} %", percent(progress.sparsity))));
        lines.push(Line::from(format!("lr {}", rate(progress.lr))));
        lines.push(Line::from(format!("{} images/s", speed(progress.images_per_second))));
        lines
    }

    fn draw_curves(&self, frame: &mut Frame, area: Rect) {
        let curves = &self.curves[self.plot as usize];
        let colors = [TRAIN, VALID];
        let block = Block::bordered().title(format!(" {} ", self.plot.title())).border_style(Style::new().dim());
        let ends = |pick: fn(&(f64, f64)) -> f64| {
            let values = || curves.iter().flat_map(|curve| curve.points()).map(pick);
            (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max))
        };
        let (low, high) = ends(|(_, value)| *value);
        if low > high {
            frame.render_widget(Paragraph::new("nothing to draw yet").block(block), area);
            return;
        }
        let room = (0.05 * (high - low)).max(1e-6);
        let (low, high) = match self.plot {
            Plot::Accuracy | Plot::Sparsity => ((low - room).max(0.0), (high + room).min(100.0).max(low + room)),
            Plot::Loss => (low - room, high + room),
            Plot::Speed => (0.0, high + room),
        };
        let tick = |value: f64| if self.plot == Plot::Loss { format!("{value:.2}") } else { format!("{value:.0}") };
        let first = ends(|(at, _)| *at).0.floor();
        let names = ["training", "validation"];
        let sets = curves.iter().zip(colors).zip(names).filter(|((curve, _), _)| curve.last().is_some());
        let sets = sets.map(|((curve, color), name)| {
            let set = Dataset::default().marker(Marker::Braille).graph_type(GraphType::Line);
            let set = set.style(color).data(curve.points());
            if curves[1].last().is_some() { set.name(name) } else { set }
        });
        let across = [first, self.epochs as f64];
        let chart = Chart::new(sets.collect())
            .block(block)
            .x_axis(Axis::default().bounds(across).labels(across.map(|at| format!("epoch {at}"))))
            .y_axis(Axis::default().bounds([low, high]).labels([
                tick(low),
                tick(f64::midpoint(low, high)),
                tick(high),
            ]));
        frame.render_widget(chart, area);
    }

    fn draw_layers(&mut self, frame: &mut Frame, area: Rect) {
        let (kept, all) = self.layers.iter().fold((0, 0), |sum, layer| (sum.0 + layer.kept, sum.1 + layer.weights));
        let title = format!(" {} of {} weights kept ", short_count(kept), short_count(all));
        let block = Block::bordered().title(title).border_style(Style::new().dim());
        let inner = block.inner(area);
        let event = wrapped(&self.event, inner.width);
        let events = event.len() as u16;
        let (width, height) = (usize::from(inner.width), usize::from(inner.height.saturating_sub(events)));
        let (lines, shown) = layers::table(&self.layers, self.skip, width, height);
        self.page = shown.max(1);
        let last = self.skip + shown;
        let block = if shown < self.layers.len() {
            block.title_bottom(format!(" layers {} to {last} of {} ", self.skip + 1, self.layers.len()))
        } else {
            block
        };
        frame.render_widget(Paragraph::new(event.into_iter().chain(lines).collect::<Vec<_>>()).block(block), area);
    }

    fn draw_keys(&self, frame: &mut Frame, area: Rect, small: bool) {
        if let Some(message) = &self.message {
            frame.render_widget(Line::from(format!(" {message} ").reversed()), area);
            return;
        }
        let mut keys = vec![("q", "stop, and save"), ("tab", "curve")];
        if small {
            keys.push(("c", if self.curves_first { "layers" } else { "curves" }));
        }
        if self.page < self.layers.len() {
            keys.push(("↓↑", "layers"));
        }
        let spans = keys.into_iter().flat_map(|(key, what)| [Span::from(key).bold(), format!(" {what}   ").dim()]);
        frame.render_widget(Line::from(spans.collect::<Vec<_>>()), area);
    }
}

/// The state of a layer before the first event.
fn state(row: &crate::records::LayerRow) -> LayerState {
    LayerState { name: row.name.clone(), weights: row.weights, kept: row.kept, ..LayerState::default() }
}

/// A figure in few characters.
fn figure(value: f64) -> String {
    match value.abs() {
        size if !size.is_finite() || size >= 1e15 || (size > 0.0 && size < 1e-3) => format!("{value:.2e}"),
        size if value.fract() == 0.0 => format!("{}{}", if value < 0.0 { "−" } else { "" }, short_count(size as u64)),
        _ => format!("{value:.3}").trim_end_matches('0').to_string(),
    }
}

/// Puts figures beside each other, in as many lines as they take.
fn wrapped(figures: &[Line<'static>], width: u16) -> Vec<Line<'static>> {
    let mut lines: Vec<Line> = Vec::new();
    for figure in figures {
        match lines.last_mut() {
            Some(line) if line.width() + 3 + figure.width() <= usize::from(width) => {
                line.spans.push("   ".into());
                line.spans.extend(figure.spans.iter().cloned());
            }
            _ => lines.push(figure.clone()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::{EventLayer, LayerRow};
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    fn shown(layers: usize) -> Shown {
        let row = |index: usize| LayerRow {
            name: format!("blocks.{index}.conv1.weight"),
            weights: 2304,
            kept: 2304,
            ..LayerRow::default()
        };
        let rows: Vec<LayerRow> = (0..layers).map(row).collect();
        let plan = Plan {
            title: "shapes10-resnet20-granet, seed 0",
            detail: "resnet20 on shapes10",
            epochs: 4,
            iterations_per_epoch: 10,
            first_iteration: 0,
            batch_size: 64,
            records: 640,
            layers: &rows,
        };
        Shown::new(&plan)
    }

    fn step(iteration: u64) -> Progress {
        let (loss, accuracy) = (2.0 / iteration as f64, 0.5);
        let epoch = (iteration - 1) / 10;
        Progress { epoch, iteration, loss, accuracy, lr: 0.05, sparsity: 0.25, images_per_second: 1612.0 }
    }

    fn screen(shown: &mut Shown, width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| shown.draw(frame)).unwrap();
        let cells: Vec<&str> = terminal.backend().buffer().content().iter().map(|cell| cell.symbol()).collect();
        cells.chunks(width.into()).map(|row| row.concat().trim_end().to_string()).collect()
    }

    #[test]
    fn a_usual_terminal_shows_every_layer_of_a_resnet_20_with_its_bar() {
        let mut shown = shown(20);
        (1..=12).for_each(|iteration| shown.progress(&step(iteration), Some(90.0)));
        let layers = vec![EventLayer { name: "blocks.3.conv1.weight".into(), kept: 1152, pruned: 1200, grown: 48 }];
        let figures = [("explored".to_string(), 0.75), ("dead units".to_string(), 3.0)].into();
        shown.event(&EventRow { iteration: 12, pruned: 1200, grown: 48, layers, figures, ..EventRow::default() });
        shown.epoch(1.0, 0.5, 0.8, &[]);
        let screen = screen(&mut shown, 80, 24);
        assert_eq!(screen[0], "shapes10-resnet20-granet, seed 0 · resnet20 on shapes10");
        assert!(screen[1].contains("epoch 2 of 4, step 12 of 40, 1 min 30 s left"), "{screen:#?}");
        assert_eq!(screen[2], "accuracy 50.0 % / 80.0 %   loss 0.1667 / 0.5000   training / validation");
        assert!(
            screen
                .iter()
                .any(|line| line.contains("after step 12: 1.20k pruned, 48 grown   dead units 3   explored 0.75"))
        );
        let row = screen.iter().find(|line| line.contains("b3.conv1")).unwrap();
        assert!(row.contains("b3.conv1") && row.contains("50.0% 1.15k") && row.contains('█'), "{row}");
        assert!(
            (0..20).all(|index| screen.iter().any(|line| line.contains(&format!("b{index}.conv1")))),
            "{screen:#?}"
        );
        assert_eq!(screen[23], "q stop, and save   tab curve   c curves");
    }

    #[test]
    fn a_wide_terminal_shows_curves_beside_the_layers_and_what_came_and_went() {
        let mut shown = shown(20);
        (1..=12).for_each(|iteration| shown.progress(&step(iteration), None));
        let layers = vec![EventLayer { name: "blocks.3.conv1.weight".into(), kept: 1152, pruned: 1200, grown: 48 }];
        shown.event(&EventRow { iteration: 12, pruned: 1200, grown: 48, layers, ..EventRow::default() });
        let screen = screen(&mut shown, 120, 40);
        assert!(screen.iter().any(|line| line.contains("accuracy, %") && line.contains("weights kept")), "{screen:#?}");
        let row = screen.iter().find(|line| line.contains("b3.conv1")).unwrap();
        assert!(row.contains("+48 −1.20k"), "{row}");
    }

    #[test]
    fn layers_beyond_the_screen_are_reached_by_scrolling_and_no_further() {
        let mut shown = shown(200);
        let first = screen(&mut shown, 60, 16);
        assert!(
            first.iter().any(|line| line.contains("layers 1 to ")) && first[15].ends_with("↓↑ layers"),
            "{first:#?}"
        );
        for _ in 0..50 {
            shown.scroll(true);
            screen(&mut shown, 60, 16);
        }
        assert!(screen(&mut shown, 60, 16).iter().any(|line| line.contains("b199.conv1")));
        (0..50).for_each(|_| shown.scroll(false));
        assert_eq!(shown.skip, 0);
    }

    #[test]
    fn no_terminal_is_too_small_and_no_figure_too_wild() {
        let mut shown = shown(20);
        for plot in Plot::ALL {
            shown.plot = plot;
            for (width, height) in [(1, 1), (5, 3), (20, 8), (80, 24), (110, 20), (200, 60)] {
                shown.curves_first = !shown.curves_first;
                screen(&mut shown, width, height);
            }
            shown.progress(
                &Progress { loss: f64::NAN, images_per_second: f64::INFINITY, ..step(1) },
                Some(f64::INFINITY),
            );
        }
        let figures = [2.0, -2.0, 0.5, 43_210.0, 0.123_456, 1e18, 2e-5, f64::NAN].map(figure);
        assert_eq!(figures, ["2", "−2", "0.5", "43.2k", "0.123", "1.00e18", "2.00e-5", "NaN"]);
    }
}
