use simulation::world::journal::Keep;
use simulation::world::run::{Options, run};
fn main() {
    let arg = |n: usize| std::env::args().nth(n).unwrap_or_default();
    let seeds: Vec<u64> = arg(1).split("..").map(|s| s.parse().unwrap()).collect();
    let (from, to) = (seeds[0], *seeds.get(1).unwrap_or(&(seeds[0] + 1)));
    let jobs = arg(2).parse().unwrap_or(100);
    let faults = arg(3).parse().unwrap();
    let mutation = if arg(4).is_empty() || arg(4) == "-" { None } else { Some(arg(4).parse().unwrap()) };
    let keep = if arg(5) == "trace" { Keep::All } else { Keep::Nothing };
    let threads = if to - from > 1 { 2 } else { 1 };
    let next = std::sync::atomic::AtomicU64::new(from);
    let bad = std::sync::atomic::AtomicU64::new(0);
    std::thread::scope(|s| {
        for _ in 0..threads {
            s.spawn(|| loop {
                let seed = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                if seed >= to { return }
                let began = std::time::Instant::now();
                let out = run(&Options { seed, jobs, replicas: 1 + (seed % 3) as usize, faults, keep, day: arg(5) == "day", mutation }).unwrap();
                let real = began.elapsed();
                if to - from <= 3 || arg(5) == "trace" || arg(5) == "day" {
                    if arg(6) != "all" { println!("{} {:?} {:?} {:.0} jobs/s", serde_json::to_string(&out.summary).unwrap(), out.calls, real, jobs as f64 / real.as_secs_f64()); }
                }
                if !out.violations.is_empty() {
                    bad.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    let v = &out.violations[0];
                    println!("SEED {seed} +{} {} job {:?} {:?}: {}", v.at, v.invariant, v.job.map(|j| j.get()), v.machine.as_ref().map(|m| m.as_str()), v.text);
                    if keep == Keep::All && arg(6) != "all" {
                        match v.job { Some(job) => println!("{}", out.journal.tail(job, 400)), None => println!("{}", out.journal.everything()) }
                    }
                }
                if arg(6) == "all" { println!("{}", out.journal.everything()); }
            });
        }
    });
    println!("{} bad", bad.into_inner());
}
