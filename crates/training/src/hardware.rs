//! What a run was made on: the machine, the memory it took, the revision of the sources.

use std::process::Command;

pub use bonsai_records::Hardware;

/// The version of burn that the project is built on.
pub const BURN_VERSION: &str = "0.22.1";

/// Looks at this machine; `device` is the one that trains.
pub fn detect(device: &str) -> Hardware {
    Hardware {
        cpu: cpu().unwrap_or_else(|| "unknown".into()),
        cores: std::thread::available_parallelism().map_or(0, usize::from),
        memory: memory().unwrap_or(0),
        os: format!("{} {}", os().unwrap_or_else(|| std::env::consts::OS.into()), std::env::consts::ARCH),
        device: device.to_string(),
    }
}

/// Gives the git revision of the sources that this program was built from, with `-dirty` after it where they differed
/// from it; `None` where they were no git checkout.
pub fn git_revision() -> Option<String> {
    option_env!("BONSAI_REVISION").map(String::from)
}

/// Gives the most memory that this process has held so far, in bytes.
#[cfg(unix)]
#[allow(unsafe_code)]
pub fn peak_memory() -> Option<u64> {
    // SAFETY: `rusage` is plain integers, for which zero is valid, and `getrusage` only writes into the one it is given.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        (libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) == 0).then_some(usage)
    }?;
    let unit = if cfg!(target_os = "macos") { 1 } else { 1024 };
    u64::try_from(usage.ru_maxrss).ok().filter(|size| *size > 0).map(|size| size * unit)
}

/// Gives the most memory that this process has held so far, in bytes.
#[cfg(not(unix))]
pub fn peak_memory() -> Option<u64> {
    None
}

fn cpu() -> Option<String> {
    if cfg!(target_os = "macos") {
        return sysctl("machdep.cpu.brand_string");
    }
    cpu_name(&std::fs::read_to_string("/proc/cpuinfo").ok()?)
}

/// Names the processor of `/proc/cpuinfo`; virtual machines may hide which one it is, but not its family and model.
fn cpu_name(text: &str) -> Option<String> {
    let name = field(text, "model name")?;
    match (field(text, "cpu family"), field(text, "model")) {
        (Some(family), Some(model)) if !name.contains(|c: char| c.is_ascii_digit()) => {
            Some(format!("{name} (family {family}, model {model})"))
        }
        _ => Some(name),
    }
}

fn memory() -> Option<u64> {
    if cfg!(target_os = "macos") {
        return sysctl("hw.memsize")?.parse().ok();
    }
    let total = field(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemTotal")?;
    Some(1024 * total.strip_suffix(" kB")?.trim().parse::<u64>().ok()?)
}

fn os() -> Option<String> {
    if cfg!(target_os = "macos") {
        return output(Command::new("sw_vers").arg("-productVersion")).map(|version| format!("macOS {version}"));
    }
    let release = std::fs::read_to_string("/etc/os-release").ok()?;
    let name = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    Some(name.trim_matches('"').to_string())
}

/// Finds the first line `name : value` and gives its value.
fn field(text: &str, name: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_string())
    })
}

fn sysctl(name: &str) -> Option<String> {
    output(Command::new("sysctl").args(["-n", name])).filter(|value| !value.is_empty())
}

/// Runs a command and gives what it printed; `None` where it is missing or fails.
fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stated_burn_is_the_locked_one() {
        let lock = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../Cargo.lock");
        let lock = std::fs::read_to_string(lock).expect("the workspace's Cargo.lock");
        assert!(lock.contains(&format!("name = \"burn\"\nversion = \"{BURN_VERSION}\"\n")));
    }

    #[test]
    fn this_machine_has_cores_and_a_device() {
        let hardware = detect("cpu");
        assert!(hardware.cores > 0 && hardware.device == "cpu");
        assert!(!hardware.cpu.is_empty() && hardware.os.ends_with(std::env::consts::ARCH));
        assert!(!cfg!(target_os = "linux") || hardware.memory > 1 << 20, "{hardware:?}");
    }

    #[test]
    #[cfg(unix)]
    fn peak_memory_is_in_bytes_and_grows() {
        let before = peak_memory().unwrap();
        let block = std::hint::black_box(vec![1u8; 256 << 20]);
        let after = peak_memory().unwrap();
        drop(block);
        assert!(before > 1 << 20 && after >= 256 << 20, "{before} {after}");
    }

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let text = "model\t\t: 85\nmodel name\t: Some CPU: fast\n";
        assert_eq!(field(text, "model name").as_deref(), Some("Some CPU: fast"));
        assert_eq!(field(text, "name"), None);
    }

    #[test]
    fn a_processor_without_a_number_is_named_by_family_and_model() {
        let text = |name| format!("cpu family\t: 25\nmodel\t\t: 17\nmodel name\t: {name}\n");
        assert_eq!(cpu_name(&text("AMD EPYC")).as_deref(), Some("AMD EPYC (family 25, model 17)"));
        assert_eq!(cpu_name(&text("AMD EPYC 9654")).as_deref(), Some("AMD EPYC 9654"));
    }
}
