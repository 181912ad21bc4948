// The long operations that there are.

export const jobKinds = ["migrate", "resync", "scrub"] as const;
export type JobKind = (typeof jobKinds)[number];
