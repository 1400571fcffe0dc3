// The list of jobs: counters that filter, a search, the table, and what was refused.

import { read } from "./api.js";
import { fill, h, icon, ticking, toast } from "./dom.js";
import { NONE, length, ms } from "./format.js";
import { current, lastCounts, on } from "./live.js";
import { Table, blank } from "./table.js";
import { GROUPS, SOURCES, groupOf, state } from "./words.js";

const LIMIT = 100;
/** At most one reading in this time, whatever comes in. */
const PACE = 2000;

/** A job's state: picture, word, remark. */
export function badge(job) {
  const { group, icon: picture, word, remark } = state(job);
  return h("span", { class: `badge is-${group}` }, icon(picture), h("b", {}, word), remark && h("small", {}, remark));
}

/** How long the job waited for its start, or has been waiting. */
function waited(job) {
  const [queued, started] = [ms(job.queued_at), ms(job.in_progress_at)];
  if (job.startup_seconds !== undefined) return { millis: job.startup_seconds * 1000 };
  if (started !== null) return { millis: started - queued };
  return job.completed_at ? null : { since: queued };
}

/** How long it ran, or has been running. */
function ran(job) {
  const [started, ended] = [ms(job.in_progress_at), ms(job.completed_at)];
  if (started !== null && ended !== null) return { millis: Math.max(0, ended - started) };
  if (job.duration_seconds !== undefined) return { millis: job.duration_seconds * 1000 };
  return started !== null && !ended ? { since: started } : null;
}

const shown = (span) => (span === null ? h("span", { class: "none", title: "not measured" }, NONE) : "since" in span ? ticking(span.since, "coarse") : length(span.millis));
const value = (span) => (span === null ? null : "since" in span ? Date.now() - span.since : span.millis);

const COLUMNS = [
  { key: "status", title: "Status", class: "c-status", sort: (job) => GROUPS.findIndex((g) => g.name === groupOf(job.status)), cell: badge },
  {
    key: "job",
    title: "Job",
    class: "c-job",
    sort: (job) => `${job.repo ?? ""} ${job.job_name ?? ""}`,
    cell: (job) => [
      h("a", { class: "name", href: detail(job), tabindex: "-1" }, job.job_name ?? `job ${job.job_id}`),
      h("span", { class: "sub" }, job.repo ?? "repository unknown", job.workflow_name && h("span", { class: "dim" }, ` · ${job.workflow_name}`)),
    ],
  },
  {
    key: "machine",
    title: "Runner",
    class: "c-machine",
    cell: (job) =>
      job.instance_id
        ? [h("code", {}, job.instance_id), h("span", { class: "sub" }, [job.instance_type, job.spot ? "spot" : "on-demand", job.source !== "cold_start" && SOURCES[job.source]].filter(Boolean).join(" · "))]
        : h("span", { class: "none", title: "no machine is bound" }, NONE),
  },
  {
    key: "attempt",
    title: "Attempt",
    class: "c-attempt num",
    sort: (job) => job.attempt,
    cell: (job) => h("span", { class: job.attempt > 1 ? "again" : "dim" }, String(job.attempt)),
  },
  { key: "waited", title: "Waited", class: "c-waited num", sort: (job) => value(waited(job)), cell: (job) => shown(waited(job)) },
  { key: "ran", title: "Ran", class: "c-ran num", sort: (job) => value(ran(job)), cell: (job) => shown(ran(job)) },
  { key: "age", title: "Age", class: "c-age num", sort: (job) => -ms(job.queued_at), cell: (job) => ticking(ms(job.queued_at)) },
];

const detail = (job) => `/admin/jobs/detail/?id=${job.job_id}`;

/** Shows the list in `root`. */
export function jobs(root) {
  const url = new URL(location.href);
  const choice = { group: url.searchParams.get("status") ?? "", text: url.searchParams.get("q") ?? "" };
  const sort = url.searchParams.get("sort") ?? "-age";
  const order = sort === "-age" ? { key: "age", down: false } : { key: sort.replace(/^-/, ""), down: sort.startsWith("-") };
  let rows = [];
  let more = [];
  let page;
  let asked = 0;
  let timer;
  let typing;
  let inFlight;

  const counters = new Map();
  const strip = h("div", { class: "counters", role: "group", "aria-label": "Filter by state" },
    GROUPS.map((group) => {
      const number = h("strong", { class: "num" }, NONE);
      const cell = h("button", { type: "button", class: `counter is-${group.name}`, title: group.hint, onclick: () => choose(group.name) },
        h("span", { class: "counter-title" }, icon(group.icon), group.title), number);
      counters.set(group.name, { cell, number });
      return cell;
    }));
  const search = h("input", { type: "search", placeholder: "Repository, job, label, machine or id", "aria-label": "Search jobs", autocomplete: "off", spellcheck: "false", value: choice.text });
  const said = h("p", { class: "said", "aria-live": "polite" });
  const fresh = h("button", { type: "button", class: "quiet", hidden: true, onclick: () => draw(true) });
  const table = new Table({ label: "Jobs", columns: COLUMNS, id: (job) => job.job_id, href: detail, order, onSort: (order) => { remember(order); draw(true); } });
  const empty = h("div", { hidden: true });
  const onward = h("button", { type: "button", class: "quiet", hidden: true, onclick: further }, "Show older jobs");
  const refused = h("section", { class: "refused", hidden: true, "aria-label": "Refused jobs" });

  fill(root,
    h("h1", { class: "hidden" }, "Jobs"),
    strip,
    refused,
    h("div", { class: "bar" }, h("label", { class: "search" }, icon("search"), search, h("kbd", { "aria-hidden": "true" }, "/")), fresh, said),
    h("div", { class: "panel" }, table.element, empty),
    h("div", { class: "onward" }, onward));

  search.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => {
      choice.text = search.value.trim();
      restart();
    }, 200);
  });
  search.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && search.value) {
      event.stopPropagation();
      search.value = "";
      choice.text = "";
      restart();
    } else if (event.key === "ArrowDown" || event.key === "Enter") {
      event.preventDefault();
      table.enter();
    }
  });

  function choose(group) {
    choice.group = choice.group === group ? "" : group;
    restart();
  }

  function remember(order = table.order) {
    const query = new URLSearchParams();
    if (choice.group) query.set("status", choice.group);
    if (choice.text) query.set("q", choice.text);
    const sort = order.key === "age" ? (order.down ? "age" : "-age") : `${order.down ? "-" : ""}${order.key}`;
    if (sort !== "-age") query.set("sort", sort);
    history.replaceState(null, "", query.size ? `?${query}` : location.pathname);
  }

  function restart() {
    more = [];
    page = undefined;
    remember();
    mark();
    load(true);
  }

  function mark() {
    for (const [name, { cell }] of counters) cell.setAttribute("aria-pressed", String(choice.group === name));
  }

  const filter = () => ({
    limit: LIMIT,
    q: choice.text,
    status: GROUPS.find((group) => group.name === choice.group)?.words.join(","),
  });

  async function load(force = false) {
    inFlight?.abort();
    const mine = (inFlight = new AbortController());
    asked = Date.now();
    clearTimeout(timer);
    timer = undefined;
    try {
      const answer = await read("/api/jobs", filter(), mine.signal);
      rows = answer.jobs;
      if (!more.length) page = answer.next_cursor;
      draw(force, answer.total);
      if (current() !== "live") count((await read("/api/jobs/stats", {}, mine.signal)));
    } catch (error) {
      if (mine.signal.aborted) return;
      if (table.rows.size) toast(`The jobs could not be read: ${error.message}`);
      else
        fill(empty, blank("lost", "The jobs could not be read", error.message,
          h("button", { type: "button", class: "quiet", onclick: () => load(true) }, "Try again"))).hidden = false;
    }
  }

  /** Reads again soon; at once when the last reading is long ago. */
  function soon() {
    timer ??= setTimeout(() => load(), Math.max(50, asked + PACE - Date.now()));
  }

  async function further() {
    onward.disabled = true;
    try {
      const answer = await read("/api/jobs", { ...filter(), cursor: page });
      more.push(...answer.jobs);
      page = answer.next_cursor;
      draw(true, answer.total);
    } catch (error) {
      toast(`Older jobs could not be read: ${error.message}`);
    }
    onward.disabled = false;
  }

  let total = 0;
  function draw(force, count = total) {
    total = count;
    const seen = new Set(rows.map((job) => job.job_id));
    const all = [...rows, ...more.filter((job) => !seen.has(job.job_id))];
    table.show(all, { force });
    fresh.hidden = table.held === 0;
    fresh.textContent = `${table.held} new · show`;
    onward.hidden = !page;
    table.element.hidden = all.length === 0;
    empty.hidden = all.length > 0;
    said.textContent = all.length < total ? `${all.length} of ${total} jobs` : `${total} ${total === 1 ? "job" : "jobs"}`;
    if (!all.length) {
      const filtered = choice.group || choice.text;
      fill(empty, filtered
        ? blank("search", "No job matches", "Other jobs are hidden by the filter.",
            h("button", { type: "button", class: "quiet", onclick: clear }, "Clear the filter"))
        : blank("waiting", "No jobs yet", "A job appears here as soon as GitHub says that it is queued."));
    }
  }

  function clear() {
    choice.group = "";
    choice.text = "";
    search.value = "";
    restart();
  }

  function count({ states, rejected }) {
    for (const group of GROUPS) {
      const number = group.words.reduce((sum, word) => sum + (states[word] ?? 0), 0);
      const { cell, number: shown } = counters.get(group.name);
      shown.textContent = number.toLocaleString("en");
      cell.classList.toggle("zero", number === 0);
    }
    if (rejected !== Number(refused.dataset.count ?? 0)) readRefused();
  }

  async function readRefused() {
    try {
      const { jobs } = await read("/api/jobs/rejected");
      refused.dataset.count = jobs.length;
      refused.hidden = jobs.length === 0;
      const open = refused.querySelector("details")?.open ?? false;
      fill(refused, h("details", { open },
        h("summary", {}, icon("lost"), h("b", {}, `${jobs.length} ${jobs.length === 1 ? "job was" : "jobs were"} refused`), " because of their labels, in the last day"),
        h("ul", {}, jobs.map((job) => h("li", {},
          h("span", { class: "refused-why" }, job.explanation ?? job.category.replaceAll("_", " ")),
          h("span", { class: "labels" }, job.labels.map((label) => h("code", {}, label))),
          h("span", { class: "sub" }, `${job.repo} · job ${job.job_id} · `, ticking(ms(job.rejected_at)), " ago"))))));
    } catch {
      // The counters ask again with the next change.
    }
  }

  const off = [
    on("refresh", () => load()),
    on("hint", (topic, data) => {
      if (topic === "snapshot") count(data);
      if (topic === "instance") return;
      // The word at once, the rest with the next reading. Other replicas' work shows in the counts alone.
      const row = rows.find((job) => job.job_id === data.job_id);
      if (row && data.status !== "rejected" && row.status !== data.status) {
        row.status = data.status;
        const entry = table.rows.get(row.job_id);
        if (entry) table.update(entry, row);
      }
      soon();
    }),
  ];
  mark();
  if (lastCounts()) count(lastCounts());
  load(true);
  return {
    title: "Jobs",
    search: () => search.focus(),
    enter: () => table.enter(),
    leave: () => {
      off.forEach((stop) => stop());
      clearTimeout(timer);
      clearTimeout(typing);
      inFlight?.abort();
    },
  };
}
