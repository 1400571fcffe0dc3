//! A run in one picture: how long jobs waited, and how large the fleet was.

use std::fmt::Write as _;

use super::summary::Minute;

const WIDTH: f64 = 960.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const PANEL: f64 = 220.0;
const GAP: f64 = 60.0;
const TOP: f64 = 40.0;

/// A line in a panel: its name, its colour, its values minute by minute.
struct Curve {
    name: &'static str,
    colour: &'static str,
    values: Vec<f64>,
}

/// Draws a run, minute by minute, as an SVG without scripts; readable on light and on dark ground.
pub fn svg(series: &[Minute], title: &str) -> String {
    let curve =
        |name, colour, value: fn(&Minute) -> f64| Curve { name, colour, values: series.iter().map(value).collect() };
    let waits =
        [curve("wait p95 (s)", "#e0803c", |m| m.wait_s_p95), curve("wait p50 (s)", "#3c82e0", |m| m.wait_s_p50)];
    let fleet = [
        curve("instances", "#3ca06a", |m| m.instances as f64),
        curve("running jobs", "#8a63d2", |m| m.running as f64),
        curve("queued jobs", "#d24c63", |m| m.queued as f64),
    ];
    let height = TOP + 2.0 * PANEL + GAP + 40.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\" fill=\"#888\">\n<text x=\"{LEFT}\" y=\"20\" font-size=\"15\">{}</text>\n",
        escaped(title)
    );
    panel(&mut svg, TOP, &waits);
    panel(&mut svg, TOP + PANEL + GAP, &fleet);
    svg.push_str("</svg>\n");
    svg
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn panel(svg: &mut String, top: f64, curves: &[Curve]) {
    let minutes = curves.iter().map(|curve| curve.values.len()).max().unwrap_or(0).max(2);
    let most = curves.iter().flat_map(|curve| curve.values.iter().copied()).fold(1.0, f64::max);
    let step = nice(most / 4.0);
    let scale = (most / step).ceil() * step;
    let x = |minute: f64| LEFT + (WIDTH - LEFT - RIGHT) * minute / (minutes - 1) as f64;
    let y = |value: f64| top + PANEL * (1.0 - value / scale);
    let mut value = 0.0;
    while value <= scale {
        let at = y(value);
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" x2=\"{:.0}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#888\" stroke-opacity=\"0.3\"/>\
             <text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{value}</text>",
            WIDTH - RIGHT,
            LEFT - 8.0,
            at + 4.0
        );
        value += step;
    }
    let every = if minutes > 180 { 120 } else { 15 };
    for minute in (0..minutes).step_by(every) {
        let label = if minutes > 180 { format!("{} h", minute / 60) } else { format!("{minute} min") };
        let (at, below) = (x(minute as f64), top + PANEL + 18.0);
        let _ = writeln!(svg, "<text x=\"{at:.1}\" y=\"{below:.1}\" text-anchor=\"middle\">{label}</text>");
    }
    for (place, curve) in curves.iter().enumerate() {
        let points: Vec<String> =
            curve.values.iter().enumerate().map(|(m, v)| format!("{:.1},{:.1}", x(m as f64), y(*v))).collect();
        let across = LEFT + 150.0 * place as f64;
        let _ = writeln!(
            svg,
            "<polyline fill=\"none\" stroke=\"{}\" stroke-width=\"1.2\" points=\"{}\"/>\n\
             <text x=\"{across:.0}\" y=\"{:.1}\" fill=\"{}\">{}</text>",
            curve.colour,
            points.join(" "),
            top - 8.0,
            curve.colour,
            curve.name
        );
    }
}

/// The next round number: 1, 2 or 5 times a power of ten.
fn nice(at_least: f64) -> f64 {
    let power = 10_f64.powf(at_least.max(1.0).log10().floor());
    [1.0, 2.0, 5.0].into_iter().map(|times| times * power).find(|step| *step >= at_least).unwrap_or(10.0 * power)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_round() {
        assert_eq!([0.3, 1.0, 1.1, 3.0, 7.0, 40.0, 260.0].map(nice), [1.0, 1.0, 2.0, 5.0, 10.0, 50.0, 500.0]);
    }

    #[test]
    fn every_minute_is_a_point_and_a_title_is_no_markup() {
        let minute = Minute { queued: 3, running: 20, instances: 25, wait_s_p50: 40.0, wait_s_p95: 90.0 };
        let drawn = svg(&[minute; 100], "1 < 2");
        assert_eq!(drawn.matches("<polyline").count(), 5);
        let first = drawn.split("points=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap_or_default();
        assert_eq!(first.split(' ').count(), 100);
        assert!(drawn.contains("1 &lt; 2") && drawn.ends_with("</svg>\n"));
    }
}
