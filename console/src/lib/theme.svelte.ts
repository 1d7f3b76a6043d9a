// Dark, light, or as the system has it.

export const THEMES = ["auto", "light", "dark"] as const;
export type Theme = (typeof THEMES)[number];
const KEPT = "cardea-theme";
const system = matchMedia("(prefers-color-scheme: dark)");

class Look {
  theme = $state<Theme>(THEMES.find((one) => one === localStorage.getItem(KEPT)) ?? "auto");
  isDark = $state(false);

  constructor() {
    system.addEventListener("change", () => this.apply());
    this.apply();
  }

  choose(theme: Theme) {
    this.theme = theme;
    if (theme === "auto") localStorage.removeItem(KEPT);
    else localStorage.setItem(KEPT, theme);
    this.apply();
  }

  private apply() {
    this.isDark = this.theme === "dark" || (this.theme === "auto" && system.matches);
    document.documentElement.dataset.theme = this.isDark ? "dark" : "light";
  }
}

export const appearance = new Look();
