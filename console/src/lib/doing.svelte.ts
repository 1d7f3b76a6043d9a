// One change at a time: whether it runs, how it failed, what to do when it worked.
export class Doing {
  isRunning = $state(false);
  error = $state<unknown>(null);
  done = $state("");

  async run(work: () => Promise<string | void>): Promise<boolean> {
    [this.isRunning, this.error, this.done] = [true, null, ""];
    try {
      this.done = (await work()) ?? "";
      return true;
    } catch (error) {
      this.error = error;
      return false;
    } finally {
      this.isRunning = false;
    }
  }
}
