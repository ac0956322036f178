//! What a program can't do: bounds of the kernel, files that it may open (Landlock), system calls that it may not make
//! (seccomp).
//!
//! The list of calls is one of refusals: what is not in it is what any program may ask of the kernel. Calls that are newer
//! than the list are refused as well. Files are bounded twice, by the root that the program sees and by Landlock, and so is
//! the network, by its namespace, in which there is nothing, and by the refusal of every socket but those between processes.

use std::collections::BTreeMap;
use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus,
    Scope, path_beneath_rules,
};
use rustix::process::{Resource, Rlimit, setrlimit};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, sock_filter,
};
use uapi::c;

use super::root::{DEVICES, SYSTEM, WORK};
use super::{Fault, Part};
use crate::process::control::Plan;

/// Address space of one process, in bytes.
const MAX_MEMORY: u64 = 1 << 30;
/// Open files of one process.
const MAX_FILES: u64 = 256;
/// Processes and threads.
const MAX_PROCESSES: u64 = 64;
/// The largest file, in bytes.
const MAX_FILE: u64 = 64 << 20;

/// What the kernel holds each process to.
pub(super) fn limit(plan: &Plan) -> Result<(), Fault> {
    for (what, name, most) in [
        (Resource::Cpu, "CPU time", plan.cpu_secs),
        (Resource::As, "memory", MAX_MEMORY),
        (Resource::Nofile, "open files", MAX_FILES),
        (Resource::Nproc, "processes", MAX_PROCESSES),
        (Resource::Fsize, "the size of a file", MAX_FILE),
        (Resource::Core, "core files", 0),
    ] {
        // The daemon may be held to less.
        let held = rustix::process::getrlimit(what).maximum.unwrap_or(u64::MAX);
        let most = Some(most.min(held));
        setrlimit(what, Rlimit { current: most, maximum: most }).part(&format!("the limit of {name}"))?;
    }
    Ok(())
}

/// Files by Landlock, then system calls by seccomp: what the one needs, the other refuses.
pub(super) fn confine(program: &Path) -> Result<(), Fault> {
    let ruled = landlock(program).part("Landlock")?;
    if ruled == RulesetStatus::NotEnforced {
        return Err("Landlock: this kernel does not have it".to_owned());
    }
    for filter in filters().part("seccomp")? {
        seccompiler::apply_filter(&filter).part("seccomp")?;
    }
    Ok(())
}

/// Fails if the kernel can't hold the program to these files; what newer kernels know beside it is taken where it is known.
fn landlock(program: &Path) -> Result<RulesetStatus, landlock::RulesetError> {
    let newest = ABI::V6;
    let read = AccessFs::from_read(newest);
    let device = AccessFs::ReadFile | AccessFs::WriteFile;
    let work = AccessFs::from_all(newest) & !AccessFs::Execute & !AccessFs::IoctlDev;
    let ruled = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(ABI::V3))?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(newest))?
        .handle_access(AccessNet::from_all(newest))?
        .scope(Scope::from_all(newest))?
        .create()?
        .add_rules(path_beneath_rules(SYSTEM, read))?
        .add_rules(path_beneath_rules([program], read))?
        .add_rules(path_beneath_rules(DEVICES, device))?
        .add_rules(path_beneath_rules([WORK], work))?
        .restrict_self()?;
    Ok(ruled.ruleset)
}

/// Refused: reaching into other processes, changing namespaces and mounts, keys, what runs inside the kernel, the clock, and
/// what only root may anyway.
const REFUSED: &[c::c_long] = &[
    c::SYS_acct,
    c::SYS_add_key,
    c::SYS_adjtimex,
    c::SYS_bpf,
    c::SYS_chroot,
    c::SYS_clock_adjtime,
    c::SYS_clock_settime,
    c::SYS_delete_module,
    c::SYS_fanotify_init,
    c::SYS_finit_module,
    c::SYS_fsconfig,
    c::SYS_fsmount,
    c::SYS_fsopen,
    c::SYS_fspick,
    c::SYS_init_module,
    c::SYS_io_uring_enter,
    c::SYS_io_uring_register,
    c::SYS_io_uring_setup,
    c::SYS_kcmp,
    c::SYS_kexec_file_load,
    c::SYS_kexec_load,
    c::SYS_keyctl,
    c::SYS_mount,
    c::SYS_mount_setattr,
    c::SYS_move_mount,
    c::SYS_move_pages,
    c::SYS_name_to_handle_at,
    c::SYS_open_by_handle_at,
    c::SYS_open_tree,
    c::SYS_perf_event_open,
    c::SYS_personality,
    c::SYS_pidfd_getfd,
    c::SYS_pivot_root,
    c::SYS_process_madvise,
    c::SYS_process_vm_readv,
    c::SYS_process_vm_writev,
    c::SYS_ptrace,
    c::SYS_quotactl,
    c::SYS_quotactl_fd,
    c::SYS_reboot,
    c::SYS_request_key,
    c::SYS_sethostname,
    c::SYS_setdomainname,
    c::SYS_setns,
    c::SYS_settimeofday,
    c::SYS_swapoff,
    c::SYS_swapon,
    c::SYS_syslog,
    c::SYS_umount2,
    c::SYS_unshare,
    c::SYS_userfaultfd,
    c::SYS_vhangup,
];

/// Flags of `clone` that make a namespace.
const NAMESPACES: [c::c_int; 7] = [
    c::CLONE_NEWUSER,
    c::CLONE_NEWNS,
    c::CLONE_NEWPID,
    c::CLONE_NEWNET,
    c::CLONE_NEWIPC,
    c::CLONE_NEWUTS,
    c::CLONE_NEWCGROUP,
];

/// The first number of a system call that this list does not know; numbers are the same on every machine from 424 on.
/// Those of the x32 calls, which would get around the list, lie far above it.
const UNKNOWN: u32 = c::SYS_mseal as u32 + 1;

fn filters() -> Result<[BpfProgram; 3], seccompiler::BackendError> {
    use SeccompCmpArgLen::Dword;
    let rule =
        |argument, operator, value| SeccompRule::new(vec![SeccompCondition::new(argument, Dword, operator, value)?]);
    let mut refused: BTreeMap<c::c_long, Vec<SeccompRule>> = REFUSED.iter().map(|&call| (call, vec![])).collect();
    let namespaces = NAMESPACES.iter().map(|&flag| {
        let flag = u64::try_from(flag).unwrap_or_default();
        rule(0, SeccompCmpOp::MaskedEq(flag), flag)
    });
    refused.insert(c::SYS_clone, namespaces.collect::<Result<_, _>>()?);
    // It would outlive the daemon.
    refused.insert(c::SYS_prctl, vec![rule(0, SeccompCmpOp::Eq, c::PR_SET_PDEATHSIG as u64)?]);
    // Not even sockets that no network namespace holds.
    for call in [c::SYS_socket, c::SYS_socketpair] {
        refused.insert(call, vec![rule(0, SeccompCmpOp::Ne, c::AF_UNIX as u64)?]);
    }
    // What its flags are can't be seen from here; a program that is told that it is unknown takes `clone`.
    let unseen = BTreeMap::from([(c::SYS_clone3, vec![])]);
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    let filter = |calls, errno: c::c_int| {
        let errno = SeccompAction::Errno(u32::try_from(errno).unwrap_or_default());
        SeccompFilter::new(calls, SeccompAction::Allow, errno, arch)?.try_into()
    };
    Ok([filter(refused, c::EPERM)?, filter(unseen, c::ENOSYS)?, unknown()])
}

/// By hand, as only a call that has a name can be put into a filter: ENOSYS from [`UNKNOWN`] on.
fn unknown() -> BpfProgram {
    let instruction = |code: u32, jf, k| sock_filter { code: code as u16, jt: 0, jf, k };
    vec![
        // The number is the first thing in what is judged.
        instruction(c::BPF_LD | c::BPF_W | c::BPF_ABS, 0, 0),
        instruction(c::BPF_JMP | c::BPF_JGE | c::BPF_K, 1, UNKNOWN),
        instruction(c::BPF_RET | c::BPF_K, 0, c::SECCOMP_RET_ERRNO | c::ENOSYS as u32),
        instruction(c::BPF_RET | c::BPF_K, 0, c::SECCOMP_RET_ALLOW),
    ]
}
