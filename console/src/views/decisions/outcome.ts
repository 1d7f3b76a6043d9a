// How an outcome feels; the word is always beside it.
import type { Decision } from "../../lib/frames";

export const OUTCOME: Record<Decision["outcome"], string> = { approve: "good", approve_capped: "warn", step_up: "warn", decline: "bad" };
