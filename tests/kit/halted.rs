//! A thread of the gateway that stops dead, halted as a debugger would.

use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

/// One thread of the gateway, halted until this is dropped. All calls come from one thread, as the kernel wants it.
pub struct Halted(Pid);

impl Halted {
    /// All of this name.
    pub fn threads(process: u32, name: &str) -> Vec<Self> {
        Self::ids(process, name).into_iter().map(Self::halt).collect()
    }

    /// The one of this name; the kernel keeps 15 bytes of it.
    pub fn thread(process: u32, name: &str) -> Self {
        Self::nth_last(process, name, 0)
    }

    /// Of several with one name, counted from the one that was started last.
    pub fn nth_last(process: u32, name: &str, nth: usize) -> Self {
        let ids = Self::ids(process, name);
        Self::halt(*ids.iter().rev().nth(nth).expect("a thread of this name"))
    }

    fn ids(process: u32, name: &str) -> Vec<i32> {
        let threads = std::fs::read_dir(format!("/proc/{process}/task")).expect("its threads");
        let named = |path: &std::path::PathBuf| {
            std::fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim_end() == name)
        };
        let ids = threads.map(|entry| entry.expect("a thread").path()).filter(named);
        let id = |path: std::path::PathBuf| path.file_name().and_then(|id| id.to_str()?.parse::<i32>().ok());
        let mut ids: Vec<i32> = ids.map(|path| id(path).expect("a number")).collect();
        ids.sort_unstable();
        ids
    }

    fn halt(id: i32) -> Self {
        let id = Pid::from_raw(id);
        ptrace::seize(id, ptrace::Options::empty()).expect("our own child may be traced");
        ptrace::interrupt(id).expect("it stops");
        waitpid(id, Some(WaitPidFlag::__WALL)).expect("it has stopped");
        Self(id)
    }
}

impl Drop for Halted {
    fn drop(&mut self) {
        // The gateway may be gone already.
        let _ = ptrace::detach(self.0, None);
    }
}
