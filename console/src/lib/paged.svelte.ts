// A list of the gateway's, page by page: loading, empty, broken, more.

import { get, type Page } from "./api";

export class Paged<T> {
  items = $state.raw<T[]>([]);
  next = $state<string | null>(null);
  isLoading = $state(true);
  error = $state<unknown>(null);
  private turn = 0;

  constructor(private readonly path: () => string, private readonly limit = 100) {}

  load = async (more = false): Promise<void> => {
    const turn = ++this.turn;
    [this.isLoading, this.error] = [true, null];
    const path = this.path();
    const after = more && this.next !== null ? `&after=${encodeURIComponent(this.next)}` : "";
    try {
      const page = await get<Page<T>>(`${path}${path.includes("?") ? "&" : "?"}limit=${this.limit}${after}`);
      // A newer question was asked meanwhile: its answer counts.
      if (turn !== this.turn) return;
      this.items = more ? [...this.items, ...page.items] : page.items;
      this.next = page.next;
    } catch (error) {
      if (turn === this.turn) this.error = error;
    }
    if (turn === this.turn) this.isLoading = false;
  };

  more = () => this.load(true);
  again = () => this.load();
}
