// Where the page is: `#/fleet/WVW-1`, `#/decisions/0198…`. In the address, so that a view can be linked and reloaded.

export const VIEWS = ["fleet", "alerts", "decisions", "rentals", "cards", "stations", "rules", "vehicles", "users", "api_keys", "notifications", "audit", "system", "account"] as const;
export type View = (typeof VIEWS)[number];

class Route {
  view = $state<View>("fleet");
  id = $state<string | null>(null);

  constructor() {
    addEventListener("hashchange", () => this.read());
    this.read();
  }

  private read() {
    const [view, id] = location.hash.replace(/^#\//, "").split("/");
    this.view = VIEWS.find((one) => one === view) ?? "fleet";
    try {
      this.id = id ? decodeURIComponent(id) : null;
    } catch {
      // Somebody's own address with a broken %: the view without the thing.
      this.id = null;
    }
  }

  go(view: View, id: string | null = null) {
    location.hash = link(view, id);
  }
}

export const link = (view: View, id: string | null = null) => `#/${view}${id === null ? "" : `/${encodeURIComponent(id)}`}`;
export const route = new Route();
