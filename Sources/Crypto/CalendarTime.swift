/// Seconds since 1970 as people read them, without a calendar library: UTC, Gregorian.
enum CalendarTime {
    /// `2026-11-20 10:00:00 UTC`
    static func text(_ seconds: Int64) -> String {
        // A year beyond 9999 has no place in X.509 (RFC 5280 §4.1.2.5.2).
        guard (-62_135_596_800...253_402_300_799).contains(seconds) else { return "an impossible time" }
        let days = seconds >= 0 ? seconds / 86_400 : (seconds - 86_399) / 86_400
        let rest = seconds - days * 86_400
        let (year, month, day) = date(days)
        let time = "\(pad(rest / 3600, 2)):\(pad(rest / 60 % 60, 2)):\(pad(rest % 60, 2))"
        return "\(pad(year, 4))-\(pad(month, 2))-\(pad(day, 2)) \(time) UTC"
    }

    /// `1 second`, `26 hours`, `30 days`: the largest unit of which there are at least two, or one.
    static func span(_ seconds: Int64) -> String {
        let seconds = seconds.magnitude
        for (unit, length) in [("day", UInt64(86_400)), ("hour", 3600), ("minute", 60)] where seconds >= 2 * length {
            return "\(seconds / length) \(unit)s"
        }
        return "\(seconds) second\(seconds == 1 ? "" : "s")"
    }

    /// Year, month, day from days since 1970-01-01, counted in eras of 400 years that begin in March.
    private static func date(_ days: Int64) -> (Int64, Int64, Int64) {
        let shifted = days + 719_468
        let era = (shifted >= 0 ? shifted : shifted - 146_096) / 146_097
        let dayOfEra = shifted - era * 146_097
        let yearOfEra = (dayOfEra - dayOfEra / 1460 + dayOfEra / 36_524 - dayOfEra / 146_096) / 365
        let dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
        let shiftedMonth = (5 * dayOfYear + 2) / 153
        let month = shiftedMonth < 10 ? shiftedMonth + 3 : shiftedMonth - 9
        return (yearOfEra + era * 400 + (month <= 2 ? 1 : 0), month, dayOfYear - (153 * shiftedMonth + 2) / 5 + 1)
    }

    private static func pad(_ value: Int64, _ digits: Int) -> String {
        let text = String(value)
        return String(repeating: "0", count: max(0, digits - text.count)) + text
    }
}
