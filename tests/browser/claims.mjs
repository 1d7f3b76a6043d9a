// Claims about a page: gathered first, then tried one after the other, with a line like cargo's at the end.

export class Claims {
  constructor() {
    this.all = [];
    this.claim = (name, test) => this.all.push({ name, test });
  }

  /**
   * `prepare` comes before the claims and `end` after them, whatever happened; `shot` takes a picture named `failed-N` of
   * a page that does not hold what is claimed, and `log` has the gateway's last words.
   */
  async run({ prepare, shot, end, log }) {
    let failed = 0;
    try {
      await prepare();
      for (const { name, test } of this.all) {
        try {
          await test();
          console.log(`ok     ${name}`);
        } catch (error) {
          failed += 1;
          console.log(`FAILED ${name}\n${error.stack}`);
          await shot(`failed-${failed}`).catch(() => null);
        }
      }
    } finally {
      await end();
    }
    if (failed > 0) console.log(log());
    console.log(`test result: ${failed ? "FAILED" : "ok"}. ${this.all.length - failed} passed; ${failed} failed`);
    process.exitCode = failed ? 1 : 0;
  }
}
