// Every text of the console, by subject. Each entry is [English, German, Japanese].
import { ADMIN } from "./admin";
import { EDIT } from "./edit";
import { FRAME } from "./frame";
import { PEOPLE } from "./people";
import { MACHINE } from "./machine";
import { VEHICLE } from "./vehicle";
import { WIRE } from "./wire";

export const TABLE = { ...FRAME, ...VEHICLE, ...ADMIN, ...PEOPLE, ...MACHINE, ...EDIT, ...WIRE };
