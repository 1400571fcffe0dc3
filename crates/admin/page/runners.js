// Machines and the runners on them.

import { read } from "./api.js";
import { fill, h, icon, ticking, toast } from "./dom.js";
import { NONE, ms } from "./format.js";
import { on } from "./live.js";
import { Table, blank } from "./table.js";

const PACE = 2000;

const RUNNER = {
  minting: ["starting", "starting"],
  minted: ["starting", "starting"],
  online: ["starting", "waiting"],
  busy: ["running", "running"],
  retiring: ["off", "off"],
  done: ["done", "done"],
  gone: ["lost", "lost"],
};

const none = (title) => h("span", { class: "none", title }, NONE);

function runnerBadge(row) {
  if (!row.runner_state) return h("span", { class: "badge is-off" }, icon("waiting"), h("b", {}, "no runner"));
  const [group, picture] = RUNNER[row.runner_state] ?? ["off", "off"];
  return h("span", { class: `badge is-${group}` }, icon(picture), h("b", {}, row.runner_state), row.interrupted_at && h("small", {}, "interrupted"));
}

const COLUMNS = [
  { key: "runner", title: "Runner", class: "c-status", sort: (row) => row.runner_state ?? "", cell: runnerBadge },
  {
    key: "machine",
    title: "Machine",
    class: "c-job",
    sort: (row) => row.instance_id,
    cell: (row) => [
      h("code", { class: "name" }, row.instance_id),
      h("span", { class: "sub" },
        [row.instance_type, row.spot === null ? null : row.spot ? "spot" : "on-demand", row.availability_zone, row.pool && `pool ${row.pool}`].filter(Boolean).join(" · ") || "not listed by the provider"),
    ],
  },
  {
    key: "state",
    title: "State",
    class: "c-machine",
    sort: (row) => row.state ?? "",
    cell: (row) => row.state ?? h("span", { class: "again", title: "the provider does not list this machine" }, "not listed"),
  },
  {
    key: "job",
    title: "Job",
    class: "c-ran",
    sort: (row) => row.job_id ?? null,
    cell: (row) => row.job_id
      ? [h("a", { href: `/admin/jobs/detail/?id=${row.job_id}`, tabindex: "-1", class: "num" }, String(row.job_id)), h("span", { class: "sub" }, row.repo ?? "")]
      : none("no job is known"),
  },
  { key: "busy", title: "Busy for", class: "c-waited num", sort: (row) => (row.running_since ? -ms(row.running_since) : null), cell: (row) => (row.busy && row.running_since ? ticking(ms(row.running_since), "coarse") : none(row.busy === null ? "not known" : "not busy")) },
  { key: "age", title: "Age", class: "c-age num", sort: (row) => (row.launch_time ? -ms(row.launch_time) : null), cell: (row) => ticking(ms(row.launch_time)) },
];

/** Shows the machines in `root`. */
export function runners(root) {
  const url = new URL(location.href);
  let text = url.searchParams.get("q") ?? "";
  let rows = [];
  let asked = 0;
  let timer;
  const search = h("input", { type: "search", placeholder: "Machine, type, repository, job or state", "aria-label": "Search runners", autocomplete: "off", spellcheck: "false", value: text });
  const said = h("p", { class: "said", "aria-live": "polite" });
  const warned = h("div", {});
  const empty = h("div", { hidden: true });
  const table = new Table({ label: "Runners", columns: COLUMNS, id: (row) => row.instance_id, href: (row) => row.instance_id, order: { key: "age", down: false }, onSort: () => draw(true) });
  fill(root, h("h1", { class: "hidden" }, "Runners"), warned,
    h("div", { class: "bar" }, h("label", { class: "search" }, icon("search"), search, h("kbd", { "aria-hidden": "true" }, "/")), said),
    h("div", { class: "panel" }, table.element, empty));
  search.addEventListener("input", () => {
    text = search.value.trim();
    history.replaceState(null, "", text ? `?q=${encodeURIComponent(text)}` : location.pathname);
    draw(true);
  });
  search.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown" || event.key === "Enter") {
      event.preventDefault();
      table.enter();
    }
  });

  function draw(force = false) {
    const wanted = text.toLowerCase();
    const has = (row) => Object.values(row).some((field) => String(field).toLowerCase().includes(wanted));
    const all = wanted ? rows.filter(has) : rows;
    table.show(all, { force });
    const busy = all.filter((row) => row.busy).length;
    said.textContent = `${all.length} ${all.length === 1 ? "machine" : "machines"}, ${busy} busy`;
    table.element.hidden = all.length === 0;
    empty.hidden = all.length > 0;
    if (!all.length) {
      fill(empty, rows.length
        ? blank("search", "No machine matches", "Other machines are hidden by the search.")
        : blank("off", "No machines", "A machine is launched when a job waits, and ended when the job is over."));
    }
  }

  async function load() {
    asked = Date.now();
    clearTimeout(timer);
    timer = undefined;
    try {
      const answer = await read("/api/instances");
      rows = answer.instances;
      fill(warned, (answer.warnings ?? []).map((warning) => h("p", { class: "warning" }, icon("lost"), warning)));
      draw();
    } catch (error) {
      if (rows.length) toast(`The machines could not be read: ${error.message}`);
      else fill(empty, blank("lost", "The machines could not be read", error.message,
        h("button", { type: "button", class: "quiet", onclick: load }, "Try again"))).hidden = false;
    }
  }

  const off = [
    on("refresh", load),
    on("hint", () => (timer ??= setTimeout(load, Math.max(50, asked + PACE - Date.now())))),
  ];
  load();
  return {
    title: "Runners",
    search: () => search.focus(),
    enter: () => table.enter(),
    leave: () => {
      off.forEach((stop) => stop());
      clearTimeout(timer);
    },
  };
}
