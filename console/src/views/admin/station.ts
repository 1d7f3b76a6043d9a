// A station as the gateway tells of one.
import type { Place } from "../../lib/frames";

export interface Terminal { network_id: string; terminal_id?: string }
export interface Station {
  station_id: string; name: string; brand?: string; position: Place | null; position_source?: string; learnt_from?: number; terminals: Terminal[];
  postal_code?: string; city?: string; country?: string; time_zone?: string; is_offline_batch: boolean;
}
