// What states are called on the page, how they are grouped and drawn, and what segments are called.

/** The groups of the counters: which stored words each one holds. */
export const GROUPS = [
  { name: "waiting", title: "Waiting", icon: "waiting", words: ["requeued"], hint: "accepted, no machine yet" },
  { name: "starting", title: "Starting", icon: "starting", words: ["claiming", "launched"], hint: "a machine is on its way" },
  { name: "running", title: "Running", icon: "running", words: ["running"], hint: "a runner is up" },
  { name: "done", title: "Done", icon: "done", words: ["completed", "success", "cancelled"], hint: "last 24 h" },
  { name: "failed", title: "Failed", icon: "failed", words: ["failure", "timeout", "error", "failed"], hint: "last 24 h" },
  { name: "lost", title: "Lost", icon: "lost", words: ["terminating", "interrupted", "orphaned"], hint: "machine gone, 24 h" },
];

export const groupOf = (word) => GROUPS.find((group) => group.words.includes(word))?.name ?? "off";

/** Group, picture, word and remark of a job's state. */
export function state(job) {
  const group = groupOf(job.status);
  const plain = (text) => (text ?? "").replaceAll("_", " ");
  switch (job.status) {
    case "requeued":
      return job.requeue_reason
        ? { group, icon: "waiting", word: "requeued", remark: plain(job.requeue_reason) }
        : { group, icon: "waiting", word: "queued", remark: "" };
    case "launched":
      return { group, icon: "starting", word: "launched", remark: job.online ? "online" : "" };
    case "running":
      return { group, icon: "running", word: "running", remark: job.in_progress_at ? "" : "online, no job yet" };
    case "completed": {
      const end = job.conclusion ?? "";
      if (end === "failure" || end === "timed_out") return { group: "red", icon: "failed", word: "completed", remark: plain(end) };
      if (end === "cancelled") return { group: "off", icon: "cancelled", word: "completed", remark: end };
      return { group, icon: "done", word: "completed", remark: end === "success" ? "" : plain(end) };
    }
    case "cancelled":
      return { group: "off", icon: "cancelled", word: "cancelled", remark: job.settled_reason === "missing" ? "unknown to GitHub" : "" };
    case "interrupted":
      return { group, icon: "lost", word: "interrupted", remark: job.rerun_state ? `re-run ${job.rerun_state}` : "" };
    case "error":
    case "failed":
      return { group, icon: "failed", word: job.status, remark: plain(job.settled_reason) };
    default:
      return { group, icon: GROUPS.find((g) => g.name === group)?.icon ?? "off", word: job.status, remark: "" };
  }
}

/** The steps of an attempt, with their milestones, in order. */
export const STEPS = [
  { name: "github_delivery", title: "GitHub delivery", from: "github_created", to: "webhook_received", says: "GitHub created the job, its webhook arrived" },
  { name: "ingest", title: "Ingest", from: "webhook_received", to: "queued", says: "webhook checked, record and message written" },
  { name: "queue_wait", title: "Queue wait", from: "queued", to: "claimed", says: "message waiting for a dispatcher" },
  { name: "dispatch", title: "Dispatch", from: "claimed", to: "fleet_requested", says: "deciding on a machine" },
  { name: "launch", title: "Launch", from: "fleet_requested", to: "instance_launched", says: "the provider making the machine" },
  { name: "boot", title: "Boot", from: "instance_launched", to: "config_fetched", says: "the machine coming up until its agent reads the hand-over" },
  { name: "register", title: "Register", from: "config_fetched", to: "runner_registered", says: "the runner connecting to GitHub" },
  { name: "pickup", title: "Pickup", from: "runner_registered", to: "job_started", says: "GitHub handing over the job" },
  { name: "execute", title: "Execute", from: "job_started", to: "completed", says: "the job itself" },
  { name: "teardown", title: "Teardown", from: "completed", to: "terminated", says: "ending the machine" },
];

export const SOURCES = { cold_start: "cold start", warm_pool: "warm pool", hot_pool: "hot pool" };
