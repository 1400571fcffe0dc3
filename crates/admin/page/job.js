// One job: why it is where it is, its timeline, and what its record says.

import { read } from "./api.js";
import { copy, fill, h, icon, ticking, toast } from "./dom.js";
import { NONE, brief, full, length, ms, now } from "./format.js";
import { badge } from "./jobs.js";
import { on } from "./live.js";
import { blank } from "./table.js";
import { waterfall } from "./waterfall.js";
import { SOURCES } from "./words.js";

const PACE = 1000;
const REDRAW = 2000;

const back = () => h("a", { class: "back", href: "/admin/jobs/" }, icon("back"), "Jobs");

/** An id or word worth copying. */
const copyable = (text, what) => h("button", { type: "button", class: "copy", title: "Copy", onclick: () => copy(String(text), what) }, h("code", {}, String(text)));

const stamp = (time) => (time ? [h("span", { class: "num", title: full(ms(time)) }, brief(ms(time))), h("span", { class: "dim" }, " · ", ticking(ms(time)), ms(time) > now() ? " to go" : " ago")] : undefined);

function figures(job, timeline) {
  const last = timeline.attempts.at(-1);
  const step = (name) => last?.segments.find((segment) => segment.name === name)?.ms ?? null;
  const rows = [
    ["Start-up", length(timeline.startup_total_ms), "from GitHub's creation of the job to its start"],
    ["Ran", job.completed_at || !job.in_progress_at ? length(step("execute")) : ticking(ms(job.in_progress_at), "coarse"), "from GitHub's start to its conclusion"],
    ["Attempt", String(job.attempt), "how often we tried to give it a machine"],
    ["Machine", job.instance_type ?? NONE, job.instance_id ?? "none is bound"],
    ["Came from", SOURCES[job.source] ?? NONE, job.instance_id ? (job.spot ? "spot capacity" : "on-demand capacity") : "no machine is bound"],
  ];
  return h("dl", { class: "figures" }, rows.map(([name, value, title]) => h("div", { title }, h("dt", {}, name), h("dd", { class: "num" }, value))));
}

function record(job) {
  const rows = [
    ["Job", copyable(job.job_id, "Job id")],
    ["Run", job.run_id && [copyable(job.run_id, "Run id"), job.run_attempt > 1 && h("span", { class: "dim" }, ` attempt ${job.run_attempt}`)]],
    ["Repository", job.repo],
    ["Workflow", job.workflow_name],
    ["Labels", job.labels && h("span", { class: "labels" }, job.labels.map((label) => h("code", {}, label)))],
    ["Label warnings", job.label_warnings && h("span", { class: "is-waiting" }, job.label_warnings.join(", ").replaceAll("_", " "))],
    ["Pool", job.pool],
    ["Machine", job.instance_id && copyable(job.instance_id, "Machine id")],
    ["Type", job.instance_type && [job.instance_type, h("span", { class: "dim" }, ` ${job.spot ? "spot" : "on-demand"}${job.availability_zone ? ` · ${job.availability_zone}` : ""}`)]],
    ["Runner", job.runner_name && copyable(job.runner_name, "Runner name")],
    ["Queued", stamp(job.queued_at)],
    ["Sent back", job.requeue_reason?.replaceAll("_", " ")],
    ["Not before", stamp(job.not_before)],
    ["Confirmed", stamp(job.started_at)],
    ["In progress", stamp(job.in_progress_at)],
    ["Settled", stamp(job.completed_at)],
    ["Settled because", job.settled_reason?.replaceAll("_", " ")],
    ["Conclusion", job.conclusion],
    ["GitHub says", job.github_status],
    ["Exit code", job.exit_code === undefined ? undefined : String(job.exit_code)],
    ["Failure retries", String(job.retry_count)],
    ["Re-run", job.rerun_state],
    ["On-demand only", job.force_on_demand ? "yes" : undefined],
    ["Last error", job.last_error && h("span", { class: "is-failed" }, job.last_error)],
    ["Trace", job.trace_id && copyable(job.trace_id, "Trace id")],
  ];
  const given = rows.filter(([, value]) => value !== undefined && value !== null && value !== false && value !== "");
  return h("dl", { class: "facts" }, given.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
}

function reason(why) {
  const next = why.next && h("p", { class: "next" },
    why.next.at && ms(why.next.at) > now() ? ["In ", ticking(ms(why.next.at), "coarse"), ": "] : "Next: ", why.next.action, ".");
  return [h("p", { class: "sentence" }, why.sentence), next];
}

/** Shows one job in `root`. */
export function job(root) {
  const id = new URL(location.href).searchParams.get("id") ?? "";
  const choice = {};
  let asked = 0;
  let timer;
  let shown = "";
  let last;
  const head = h("div", { class: "job-head" });
  const why = h("section", { class: "why", "aria-label": "Why" });
  const times = h("section", { class: "panel card", "aria-labelledby": "h-time" });
  const facts = h("section", { class: "panel card", "aria-labelledby": "h-record" });

  function draw() {
    const { job, timeline } = last;
    fill(times, h("h2", { id: "h-time" }, "Timeline"), waterfall(job, timeline, choice, figures(job, timeline), draw));
  }

  function render() {
    const { job, why: answer } = last;
    const text = JSON.stringify(last);
    if (text === shown) return;
    shown = text;
    document.title = `${job.job_name ?? `job ${job.job_id}`} · runs-fleet`;
    fill(head, back(), h("div", { class: "job-title" }, h("h1", {}, job.job_name ?? `Job ${job.job_id}`), badge(job)),
      h("p", { class: "sub" }, [job.repo, job.workflow_name, `job ${job.job_id}`].filter(Boolean).join(" · "),
        job.html_url && [" · ", h("a", { href: job.html_url, rel: "noreferrer", target: "_blank" }, "on GitHub ↗")]));
    why.className = `why is-${answer.status === "requeued" || answer.status === "claiming" || answer.status === "launched" ? "waiting" : "off"}`;
    fill(why, reason(answer));
    if (!times.matches(":focus-within") || !times.childElementCount) draw();
    fill(facts, h("h2", { id: "h-record" }, "Record"), record(job));
    if (!head.isConnected) fill(root, head, why, times, facts);
  }

  async function load() {
    asked = Date.now();
    clearTimeout(timer);
    timer = undefined;
    if (!/^[1-9][0-9]*$/.test(id)) {
      fill(root, back(), blank("search", "No job is named", "The address of this page needs a job's number: ?id=…"));
      return;
    }
    try {
      const path = `/api/jobs/${id}`;
      const [job, timeline, why] = await Promise.all([read(path), read(`${path}/timeline`), read(`${path}/why`)]);
      last = { job, timeline, why };
      render();
    } catch (error) {
      if (last) toast(`The job could not be read: ${error.message}`);
      else if (error.status === 404) fill(root, back(), blank("search", "There is no such job", `Job ${id} is not known here. Settled jobs are kept for a week.`));
      else fill(root, back(), blank("lost", "The job could not be read", error.message, h("button", { type: "button", class: "quiet", onclick: load }, "Try again")));
    }
  }

  // While it is under way, its bars grow.
  const growing = setInterval(() => {
    const selecting = !document.getSelection()?.isCollapsed;
    if (last && !last.job.completed_at && !selecting && !times.matches(":focus-within, :hover")) draw();
  }, REDRAW);
  const off = [
    on("refresh", load),
    on("hint", (topic, data) => {
      const mine = (topic === "job" && String(data.job_id) === id) || (topic === "instance" && data.instance_id === last?.job.instance_id);
      if (mine) timer ??= setTimeout(load, Math.max(50, asked + PACE - Date.now()));
    }),
  ];
  fill(root, back(), h("p", { class: "sub" }, "Reading …"));
  load();
  return {
    title: `Job ${id}`,
    leave: () => {
      off.forEach((stop) => stop());
      clearInterval(growing);
      clearTimeout(timer);
    },
  };
}
