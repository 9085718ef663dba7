package cryptogram

var schemeNames = map[Scheme]string{}
