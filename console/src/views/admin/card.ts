// A fuel card as the gateway tells of one.
export interface Limits { per_purchase_minor?: number; per_day_minor?: number; per_week_minor?: number; currency: string }
export interface Card {
  card_id: string; network_ref: string; vehicle_id: string | null; status: "active" | "suspended"; changed_at: string;
  limits?: Limits; prompts?: { vehicle_number?: string; driver_id?: string };
}
