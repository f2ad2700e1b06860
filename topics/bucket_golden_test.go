package topics

var bucketGoldens = map[string]int64{
	"a":        642030,
	"cam-0001": 418972,
	"cam-0040": 900606,
	"sensor_7": 379077,
	"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA": 865497,
}
