// A job's timeline: one row per step on a shared axis, attempts below each other. A step nobody measured is hatched
// between its measured neighbours; nothing is interpolated.

import { copy, h } from "./dom.js";
import { NONE, clock, length, now } from "./format.js";
import { SOURCES, STEPS } from "./words.js";

const CLOCKS = { github: "GitHub", ingress: "server", sqs: "queue", replica: "server", agent: "agent", ec2: "provider" };
/** From this ratio on, the start of a job is too small to see beside the whole. */
const TOO_SMALL = 3;

const stamps = (attempt) => attempt.milestones.map((milestone) => milestone.at_ms);
const known = (attempt) => stamps(attempt).filter((at) => at !== null);

/** The steps of an attempt as they are drawn. `going`: the job is on its way, so that the next step is under way. */
function steps(attempt, last, { over, going }) {
  const at = stamps(attempt);
  const reached = at.reduce((reached, stamp, n) => (stamp === null ? reached : n), -1);
  return STEPS.flatMap((step, n) => {
    // Creation and delivery happen once; an attempt that was given up has no later steps.
    if (attempt.attempt > 1 && n < 2) return [];
    if (!last && n >= reached) return [];
    const segment = attempt.segments.find((segment) => segment.name === step.name);
    const ends = { from: at[n], to: at[n + 1], clocks: [attempt.milestones[n].clock, attempt.milestones[n + 1].clock] };
    const row = { ...step, ...segment, ...ends, n, about: step };
    if (segment.ms !== null) return [{ ...row, kind: "measured" }];
    if (segment.anomaly) return [{ ...row, kind: "odd" }];
    // A job that was sent back waits before it takes the same steps again.
    if (last && n === reached && (going || (!over && n <= 2))) return [{ ...row, kind: "running", to: null }];
    if (n >= reached) return [{ ...row, kind: over ? "missing" : "pending" }];
    const before = at.slice(0, n + 1).findLast((stamp) => stamp !== null) ?? null;
    const after = at.slice(n + 1).find((stamp) => stamp !== null) ?? null;
    return [{ ...row, kind: "missing", gap: before !== null && after !== null && after >= before ? [before, after] : null }];
  });
}

function ticks(span, wanted) {
  const units = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 15e3, 3e4, 6e4, 12e4, 3e5, 6e5, 18e5, 36e5, 72e5, 216e5, 864e5];
  const unit = units.find((unit) => span / unit <= wanted) ?? 864e5;
  return Array.from({ length: Math.floor(span / unit) + 1 }, (_, n) => n * unit);
}

function label(at) {
  if (at === 0) return "0";
  if (at < 1000) return `${at} ms`;
  if (at < 60_000) return `${at / 1000} s`;
  if (at < 3_600_000) return `${at / 60_000} min`;
  return `${at / 3_600_000} h`;
}

function words(row) {
  switch (row.kind) {
    case "measured":
      return row.anomaly ? `≈ ${length(row.ms)}` : length(row.ms);
    case "odd":
      return "clocks disagree";
    case "running":
      return row.from === null ? NONE : `${length(now() - row.from)} …`;
    case "missing":
      return "not measured";
    default:
      return NONE;
  }
}

function tells(row) {
  const stamp = (at, which) => (at === null ? "not measured" : `${clock(at, true)} (${CLOCKS[which] ?? which})`);
  const remark = row.anomaly === "clamped" ? " Within the second of GitHub's stamp." : "";
  return `${row.title}, ${row.about.says}: ${words(row)}. From ${stamp(row.from, row.clocks[0])} to ${row.kind === "running" ? "now" : stamp(row.to, row.clocks[1])}.${remark}`;
}

/** Draws the timeline of a job below its `figures`. `choice.scale` is `start` or `whole`; changing it calls `redraw`. */
export function waterfall(job, timeline, choice, figures, redraw) {
  const over = job.completed_at !== undefined;
  const stage = { over, going: ["claiming", "launched", "running"].includes(job.status) };
  const attempts = timeline.attempts.filter((attempt) => known(attempt).length > 0);
  if (!attempts.length) return [figures, h("p", { class: "sub" }, "No milestone of this job was recorded.")];
  const all = attempts.flatMap(known);
  const origin = Math.min(...all);
  const last = attempts.at(-1);
  const end = Math.max(...all, over ? 0 : now());
  const begun = last.milestones.find((milestone) => milestone.name === "job_started").at_ms;
  const startUp = begun !== null && begun > origin ? begun - origin : null;
  const zoomable = startUp !== null && (end - origin) / startUp > TOO_SMALL;
  const scale = zoomable ? (choice.scale ?? "start") : "whole";
  const span = Math.max(1, scale === "start" ? startUp * 1.12 : (end - origin) * 1.01);
  const place = (at) => (100 * (at - origin)) / span;
  const bar = (from, to, kind, step) => {
    const [left, right] = [Math.max(0, place(from)), Math.min(100, place(to))];
    if (left >= 100) return undefined;
    const beyond = place(to) > 100.01 ? " beyond" : "";
    return h("span", { class: `wf-bar wf-${kind}${beyond} seg-${step}`, vars: { "--at": `${left}%`, "--long": `${Math.max(0, right - left)}%` } });
  };

  const info = h("p", { class: "wf-info", "aria-hidden": "true" }, "Point at a step, or move to it, to see its stamps.");
  const block = (attempt) => {
    const isLast = attempt === last;
    const head = [
      `Attempt ${attempt.attempt}`,
      attempt.result && h("span", { class: "dim" }, attempt.result),
      attempt.source && h("span", { class: "dim" }, SOURCES[attempt.source] ?? attempt.source),
      attempt.instance_id && h("code", {}, attempt.instance_id),
    ];
    return [
      (timeline.attempts.length > 1 || attempt.attempt > 1) && h("h3", { class: "wf-attempt" }, head),
      steps(attempt, isLast, stage).map((row) => {
        const drawn =
          row.kind === "measured" ? bar(row.from, row.from + row.ms, "measured", row.name)
          : row.kind === "running" && row.from !== null ? bar(row.from, Math.max(now(), row.from), "running", row.name)
          : row.gap ? bar(row.gap[0], row.gap[1], "gap", row.name) : undefined;
        const tell = () => (info.textContent = tells(row));
        return h("div", { class: `wf-row is-${row.kind}`, role: "listitem", tabindex: "0", "aria-label": tells(row), onfocus: tell, onpointerenter: tell },
          h("span", { class: "wf-name" }, h("i", { class: `seg-${row.name}` }), row.title),
          h("span", { class: "wf-track" }, drawn),
          h("span", { class: "wf-length" }, words(row)));
      }),
    ];
  };
  const narrow = innerWidth < 640;
  const marks = ticks(narrow ? span * 0.92 : span, narrow ? 3 : 6);
  const option = (name, title) => h("button", { type: "button", "aria-pressed": String(scale === name), onclick: () => { choice.scale = name; redraw(); } }, title);
  return h("div", { class: "waterfall" },
    h("div", { class: "wf-top" }, figures, h("div", { class: "wf-tools" },
      zoomable && h("div", { class: "switch", role: "group", "aria-label": "Scale" }, option("start", "Start-up"), option("whole", "Whole job")),
      h("button", { type: "button", class: "quiet", onclick: () => copy(JSON.stringify(timeline, null, 2), "Timeline") }, "Copy as JSON"))),
    h("div", { class: "wf-body", role: "list", "aria-label": "Steps of the job" },
      h("div", { class: "wf-axis", "aria-hidden": "true" }, marks.map((at) => h("span", { vars: { "--at": `${(100 * at) / span}%` } }, label(at)))),
      h("div", { class: "wf-lines", "aria-hidden": "true" }, marks.map((at) => h("span", { vars: { "--at": `${(100 * at) / span}%` } }))),
      attempts.map(block)),
    info,
    table(attempts, last, stage, choice));
}

function table(attempts, last, stage, choice) {
  const head = ["Attempt", "Step", "From", "To", "Length", "Remark"];
  const stamp = (at, which) => (at === null ? NONE : [clock(at, true), " ", h("span", { class: "dim" }, CLOCKS[which] ?? which)]);
  const remark = (row) => ({ missing: "not measured", odd: "ends before it begins", running: "under way", pending: "to come" })[row.kind] ?? (row.anomaly ? "≈ within a second" : "");
  const rows = attempts.flatMap((attempt) => steps(attempt, attempt === last, stage).map((row) =>
    h("tr", {},
      h("td", { class: "num" }, String(attempt.attempt)),
      h("th", { scope: "row" }, row.title),
      h("td", { class: "num" }, stamp(row.from, row.clocks[0])),
      h("td", { class: "num" }, stamp(row.to, row.clocks[1])),
      h("td", { class: "num" }, row.ms === null ? NONE : length(row.ms)),
      h("td", {}, remark(row)))));
  const details = h("details", { class: "wf-table", open: choice.table ?? false },
    h("summary", {}, "As a table"),
    h("div", { class: "scroll" }, h("table", { class: "plain" }, h("thead", {}, h("tr", {}, head.map((title) => h("th", { scope: "col" }, title)))), h("tbody", {}, rows))));
  details.addEventListener("toggle", () => (choice.table = details.open));
  return details;
}
