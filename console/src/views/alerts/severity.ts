// How severe feels; the word is always beside it.
import type { Alert } from "../../lib/frames";

export const SEVERITY: Record<Alert["severity"], string> = { info: "info", warning: "warn", critical: "bad" };
