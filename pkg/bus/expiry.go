package bus

import "time"

// CertificateExpires is when the certificate ends that proves this service to every server; false when there are no
// credentials. A certificate that was replaced counts from the next reading of its files.
func (m *Mesh) CertificateExpires() (time.Time, bool) {
	creds := m.Local().creds
	if creds == nil {
		return time.Time{}, false
	}
	return creds.Expires(), true
}
