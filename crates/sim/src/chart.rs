//! Draws a run: what crossed the uplinks and how many nodes were complete, over time.

use std::fmt::Write;

use crate::cost::time_of;
use crate::history::STEP;
use crate::world::World;

const WIDTH: f64 = 860.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
/// Top of each panel, and its height.
const UPLINK: (f64, f64) = (60.0, 180.0);
const NODES: (f64, f64) = (300.0, 180.0);
const HEIGHT: f64 = 540.0;
/// Points of a line, at most.
const POINTS: usize = 400;

const STYLE: &str = "svg{font:13px system-ui,sans-serif;background:#fff;color:#222}
.axis{stroke:currentColor;stroke-width:1}.grid{stroke:currentColor;stroke-opacity:.15}
.rate{fill:#2a6fb0;fill-opacity:.35;stroke:#2a6fb0;stroke-width:1.5}.limit{stroke:#b0502a;stroke-width:1.5;stroke-dasharray:6 4}
.nodes{fill:none;stroke:#2f8f4e;stroke-width:2}.ideal{stroke:#8a5fb5;stroke-width:1.5;stroke-dasharray:2 3}text{fill:currentColor}
@media(prefers-color-scheme:dark){svg{background:#16181c;color:#dde1e6}.rate{fill:#5aa2e6;stroke:#5aa2e6}.limit{stroke:#e68a5a}
.nodes{stroke:#63c987}.ideal{stroke:#b994e0}}";

impl World {
    /// The run so far as an SVG document.
    pub fn chart(&self, title: &str) -> String {
        let steps = self.history.origin.len().max(self.history.complete.len()).max(1);
        let seconds = (steps as u64 * STEP) as f64 / 1e6;
        let capacity = self.links().origin_rate as f64 * self.sites.len() as f64 * 8.0 / 1e6;
        let width = steps.div_ceil(POINTS);
        let per_second = 1e6 / (width as u64 * STEP) as f64;
        let rates: Vec<f64> = self
            .history
            .origin
            .chunks(width)
            .map(|bytes| bytes.iter().sum::<u64>() as f64 * 8.0 / 1e6 * per_second)
            .collect();
        let mut sum = 0;
        let complete: Vec<f64> = self
            .history
            .complete
            .chunks(width)
            .map(|counts| {
                sum += counts.iter().sum::<u32>();
                f64::from(sum)
            })
            .collect();
        let count = self.figures().nodes.max(1) as f64;
        let top = rates.iter().copied().fold(capacity, f64::max) * 1.1;
        let x = |second: f64| LEFT + (WIDTH - LEFT - RIGHT) * second / seconds;
        let at = |point: usize| x(((point + 1) * width) as f64 * STEP as f64 / 1e6);
        let mut svg = String::new();
        let mut put = |text: String| writeln!(svg, "{text}").expect("a string takes every line");
        put(format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">\n<style>{STYLE}</style>\n\
             <text x=\"{LEFT}\" y=\"28\" font-size=\"16\">{}</text>",
            escape(title)
        ));
        for (panel, most, label) in [(UPLINK, top, "Mbit/s"), (NODES, count, "nodes")] {
            let (y, height) = panel;
            for part in 0..=4 {
                let line = y + height * (1.0 - f64::from(part) / 4.0);
                let value = most * f64::from(part) / 4.0;
                put(format!(
                    "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{line:.1}\" y2=\"{line:.1}\"/>\
                     <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{value:.0}</text>",
                    WIDTH - RIGHT,
                    LEFT - 6.0,
                    line + 4.0
                ));
            }
            for part in 0..=5 {
                let second = seconds * f64::from(part) / 5.0;
                put(format!(
                    "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{second:.1} s</text>",
                    x(second),
                    y + height + 18.0
                ));
            }
            put(format!(
                "<line class=\"axis\" x1=\"{LEFT}\" x2=\"{LEFT}\" y1=\"{y}\" y2=\"{0}\"/>\
                 <line class=\"axis\" x1=\"{LEFT}\" x2=\"{1}\" y1=\"{0}\" y2=\"{0}\"/>\
                 <text x=\"{LEFT}\" y=\"{2}\">{label}</text>",
                y + height,
                WIDTH - RIGHT,
                y - 8.0
            ));
        }
        let floor = UPLINK.0 + UPLINK.1;
        let mut area = format!("M{LEFT:.1} {floor:.1}");
        for (point, rate) in rates.iter().enumerate() {
            let y = floor - UPLINK.1 * rate / top;
            write!(area, "V{y:.1}H{:.1}", at(point)).expect("a string takes every line");
        }
        put(format!("<path class=\"rate\" d=\"{area}V{floor:.1}Z\"/>"));
        let limit = floor - UPLINK.1 * capacity / top;
        put(format!(
            "<line class=\"limit\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{limit:.1}\" y2=\"{limit:.1}\"/>",
            WIDTH - RIGHT
        ));
        let bottom = NODES.0 + NODES.1;
        let mut line = format!("M{LEFT:.1} {bottom:.1}");
        for (point, complete) in complete.iter().enumerate() {
            let y = bottom - NODES.1 * (complete / count).min(1.0);
            write!(line, "H{:.1}V{y:.1}", at(point)).expect("a string takes every line");
        }
        put(format!("<path class=\"nodes\" d=\"{line}H{:.1}\"/>", WIDTH - RIGHT));
        let ideal = time_of(self.release().largest(), self.links().origin_rate).as_secs_f64();
        if ideal <= seconds {
            put(format!(
                "<line class=\"ideal\" x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"{1}\" y2=\"{bottom}\"/>",
                x(ideal),
                NODES.0
            ));
        }
        let legend = [
            ("rate", "over the uplinks, with all headers"),
            ("limit", "their rate"),
            ("nodes", "nodes complete"),
            ("ideal", "payload / uplink rate"),
        ];
        let mut left = LEFT;
        for (class, text) in legend {
            put(format!(
                "<line class=\"{class}\" x1=\"{left}\" x2=\"{}\" y1=\"521\" y2=\"521\"/><text x=\"{}\" y=\"525\">{text}</text>",
                left + 24.0,
                left + 30.0
            ));
            left += 52.0 + 7.2 * text.len() as f64;
        }
        put("</svg>".to_owned());
        svg
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
